"""Which candidates show something: a guard against views that cost much because nothing is in them."""

import torch
from torch import Tensor

from hardviews.selection.pair_features import thumbnails
from hardviews.selection.search import largest, slot_slices
from hardviews.views.plan import ViewPlan


def allowed_candidates(candidates: list[Tensor], plan: ViewPlan, share: float) -> Tensor:
    """Whether a candidate may be kept, bool ``[V, B]``: its contrast is at least ``share`` of the mean contrast of the
    image's candidates. Of each slot as many as are kept, those of most contrast, always may.

    The contrast is the standard deviation of the pixels of a small picture, 8 x 8, about the mean of their channel.

    Args:
        candidates: V tensors ``[B, C, h, w]``; those that are not scored are ``[B, 0]`` and may be kept.

    Raises:
        InputError: the candidates are no pictures.
    """
    shown = [index for index, view in enumerate(candidates) if view.ndim != 2 or view.shape[1]]
    small = thumbnails([candidates[index] for index in shown])
    found = (small - small.mean((3, 4), keepdim=True)).square().mean((2, 3, 4)).sqrt()
    mean = found.mean(0)
    # By rows, since an index of a GPU's tensor would be copied there.
    rows = dict(zip(shown, found, strict=True))
    contrast = torch.stack([rows.get(index, mean) for index in range(len(candidates))])
    allowed = contrast >= share * mean
    for slot, span in slot_slices(plan):
        allowed[span].scatter_(0, largest(contrast[span], plan.slots[slot].keep), True)
    return allowed
