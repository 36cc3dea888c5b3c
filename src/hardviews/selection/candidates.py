"""Candidates as they are given: as_list, and checked against the plan."""

from collections.abc import Sequence

from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan
from hardviews.wording import several

CANDIDATES = "candidates are a list of V tensors [B, ...], one per view"


def as_list(candidates: Sequence[Tensor]) -> list[Tensor]:
    """Candidates as a list; a stacked tensor ``[V, B, ...]`` is split."""
    try:
        return list(candidates)
    except TypeError as error:  # None, or a single number
        raise InputError(f"{CANDIDATES}, not {type(candidates).__name__}") from error


def check_candidates(candidates: Sequence[Tensor], plan: ViewPlan) -> None:
    if not all(isinstance(view, Tensor) for view in candidates):
        raise InputError(f"{CANDIDATES}, and nothing else")
    if any(view.ndim == 0 for view in candidates):
        raise InputError("a candidate view is a single number; candidates are V tensors [B, ...], one per view")
    if len(candidates) != plan.draw:
        given = several(len(candidates), "candidate view was", "candidate views were")
        raise InputError(f"{given} given; the plan draws {plan.draw}")
    batches = sorted({view.shape[0] for view in candidates})
    if len(batches) > 1:
        raise InputError(f"the candidate views have different batch sizes: {', '.join(map(str, batches))}")


def require_boxes(views: Views | None) -> Tensor:
    if views is None:
        raise InputError("neither candidates nor views were given")
    return views.box
