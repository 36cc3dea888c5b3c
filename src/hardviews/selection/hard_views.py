"""Selects the views to train on: draws more than needed, scores them without side effects, keeps the hardest.

The method of Ferreira, Rapant, Franke, Hutter: "Beyond Random Augmentations: Pretraining with Hard Views", ICLR 2025.
Legend: B images, V candidate views, K kept views, T target views among the candidates, K_T kept target views.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hardviews.errors import InputError, RunError
from hardviews.selection.candidates import as_list, check_candidates, require_boxes
from hardviews.selection.costs import NOT_FINITE, Costs
from hardviews.selection.emptiness import allowed_candidates
from hardviews.selection.guard import untouched
from hardviews.selection.modules import modules_of
from hardviews.selection.policies import Policy, hardest, named, needs_costs
from hardviews.selection.search import mean_total, slot_slices
from hardviews.views.draw import Views
from hardviews.views.plan import Slot, ViewPlan

Output = TypeVar("Output")


class Targets(Protocol):
    """Encodings of the T target views, made while scoring, that training may reuse for the kept ones."""

    def take(self, ids: Tensor, /) -> Self:
        """The encodings of the kept target views, ids int64 ``[K_T, B]``."""
        ...


Score = Callable[[list[Tensor]], Costs | tuple[Costs, Targets]]


@dataclass(frozen=True, eq=False)
class Choice:
    """Which candidates are kept for every image.

    Args:
        ids: int64 ``[K, B]``: target slots first, slot by slot, ascending within a slot.
        kept: ``[B]``, the total cost of the choice; None if nothing was scored, like the other fields below.
        mean: ``[B]``, the mean total over all combinations that the plan allows: the expected cost of a random choice.
        targets: encodings of the kept target views that training may reuse, if the score function returned any.
        costs: of all candidates.
    """

    ids: Tensor
    kept: Tensor | None = None
    mean: Tensor | None = None
    targets: Targets | None = None
    costs: Costs | None = None


class HardViews:
    """Keeps the hardest candidate views of every image, judged by the model's current weights.

    In your own loop, for a method of two views::

        hard = HardViews(pairwise(model, loss))       # loss(output_a, output_b) -> [B]
        x0, x1 = hard([view() for view in range(4)])  # four views in, the two hardest out

    Scoring leaves no trace in the modules that ``score`` refers to, such as the model given to ``pairwise`` or the
    object whose method ``score`` is; ``modules_of`` says how they are found. If ``score`` reaches a module in another
    way, pass that module as ``guard``; otherwise scoring changes its running BN statistics, and dropout is active.

    For a method with several kinds of view (multi-crop), pass a plan, and as ``score`` a function of the candidates
    that returns ``Costs``, such as ``lambda views: Costs(cross)``, where ``cross[t, v]`` is the loss ``[B]`` of
    predicting target view t from view v.

    Args:
        score: maps the V candidates, each ``[B, ...]``, to ``Costs`` or ``(Costs, Targets)``. It is called without
            gradient, under ``untouched``, and must call the unwrapped module (never through DDP). An empty batch is not
            scored. None if it is passed to ``choose``.
        plan: the candidates and how many are kept; None for one kind of view, of which ``keep`` are kept.
        policy: a policy, or its name, such as ``"sampled(128)"``.
        guard: modules that ``score`` calls, besides those found in it. If this is None and no module is found, a
            warning says so once; ``()`` states that there is none.
        keep: number of views kept if there is no plan.
        seed: of ``self.generator``, from which policies draw unless ``choose`` gets another.
        check: raise RunError if a cost is not finite; if False, the caller must handle the meaningless choice.
        min_contrast: guard against empty views, for every policy: candidates whose contrast is below this part of the
            mean contrast of the image's candidates are kept only where too few others remain; 0 for no guard.

    Raises:
        InputError: the policy is unknown, or is a function of your own, which can't be guarded.
    """

    def __init__(
        self,
        score: Score | None,
        plan: ViewPlan | None = None,
        policy: Policy | str = hardest,
        guard: nn.Module | Sequence[nn.Module] | None = None,
        keep: int = 2,
        seed: int = 0,
        check: bool = True,
        min_contrast: float = 0.0,
    ) -> None:
        self.score, self.plan, self.keep, self.check = score, plan, keep, check
        self.policy = named(policy) if isinstance(policy, str) else policy
        self.min_contrast = min_contrast
        if not 0 <= min_contrast <= 1:
            raise InputError(f"min-contrast: {min_contrast:g} must be 0 to 1")
        if min_contrast and "allowed" not in getattr(self.policy, "takes", ()):
            raise InputError("min-contrast: a policy of your own must take allowed; register it by @policy")
        self.guard = (guard,) if isinstance(guard, nn.Module) else tuple(guard or ())
        self._warns = guard is None
        self.generator = torch.Generator().manual_seed(seed)
        # On a GPU: whether all costs so far were finite, and the latest copy of that flag on the CPU.
        self._finite: Tensor | None = None
        self._known: Tensor | None = None

    def __call__(self, candidates: Sequence[Tensor]) -> list[Tensor]:
        """Maps V candidates, each ``[B, ...]``, to the K kept views, each ``[B, ...]``; returns them unchanged if V =
        K.

        For an empty batch, the kept views are empty.

        Raises:
            InputError, RunError: as in ``choose``.
        """
        candidates = as_list(candidates)
        plan = self._plan_of(candidates)
        if not plan.selects:
            check_candidates(candidates, plan)
            return list(candidates)
        return gather(candidates, self.choose(candidates).ids, plan)

    @torch.no_grad()
    def choose(
        self,
        candidates: Sequence[Tensor] | Callable[[], Sequence[Tensor]],
        views: Views | None = None,
        generator: Generator | None = None,
        score: Score | None = None,
    ) -> Choice:
        """Chooses the views to keep.

        Args:
            candidates: V tensors ``[B, ...]``, or a function that makes them. With a plan and views, the function is
                not called if the policy needs no costs or V = K.
            views: the candidates as numbers, for policies that read boxes or tickets.
            generator: for policies that draw; its state should be the same on all processes.
            score: replaces the instance's score function, for example by one that knows the masks of these images.

        Returns:
            The choice; its ids are on the device of the candidates, or of the views if no candidates were made.

        Raises:
            InputError: candidates, costs or ids have the wrong number or shape.
            RunError: a cost is not finite. On a GPU this is raised a step or more later, so that nothing waits for it.
        """
        looks = needs_costs(self.policy) or self.min_contrast > 0
        scores = self.plan is None or (self.plan.selects and looks)
        made: list[Tensor] | None = None
        if not callable(candidates):
            made = as_list(candidates)
        elif scores or views is None:
            made = as_list(candidates())
        plan = self._plan_of(made)
        if made is not None:
            check_candidates(made, plan)
        like = made[0] if made is not None else require_boxes(views)[0]
        batch, device = like.shape[0], like.device
        if views is not None and views.device != device:
            views = views.to(device, non_blocking=device.type != "cpu")

        if not plan.selects:
            return Choice(torch.arange(plan.keep, device=device)[:, None].expand(-1, batch))
        costs, targets = None, None
        scored = made is not None and needs_costs(self.policy) and batch > 0
        if made is not None and scored:
            costs, targets = self._costs_of(made, plan, score or self.score)
        elif views is None or not batch:  # no views or no images: zeros carry B and the device
            costs = Costs(torch.zeros((), device=device).expand(plan.targets, plan.draw, batch))
        guarded = self.min_contrast > 0 and made is not None
        allowed = allowed_candidates(made, plan, self.min_contrast) if made is not None and guarded else None
        further: dict[str, Any] = {"allowed": allowed, "pixels": made}
        taken = {name: further[name] for name in getattr(self.policy, "takes", ())}
        ids = self.policy(costs, plan, views, generator or self.generator, **taken)
        if ids.shape != (plan.keep, batch) or ids.dtype != torch.int64:
            raise InputError(f"the policy returned {ids.dtype} ids {list(ids.shape)}, not int64 {[plan.keep, batch]}")
        ids = ids.to(device, non_blocking=device.type != "cpu")
        if costs is None or not scored:
            return Choice(ids)
        encoded = None if targets is None else targets.take(ids[: plan.kept_targets])
        return Choice(ids, costs.total(ids), mean_total(costs, plan), encoded, costs)

    def _plan_of(self, candidates: Sequence[Tensor] | None) -> ViewPlan:
        return self.plan or ViewPlan((Slot(draw=len(candidates or ()), keep=self.keep),))

    def _costs_of(self, candidates: list[Tensor], plan: ViewPlan, score: Score | None) -> tuple[Costs, Targets | None]:
        if score is None:
            raise InputError("no score function was given, and this policy needs the candidates' costs")
        modules = dict.fromkeys([*self.guard, *modules_of(score)])
        if not modules and self._warns:
            self._warns = False
            warnings.warn(
                "HardViews found no module in its score function. If it calls one, pass that as guard; otherwise "
                "scoring changes its running BN statistics. If it calls none, pass guard=()",
                stacklevel=4,
            )
        with untouched(*modules):
            scored = score(candidates)
        costs, targets = scored if isinstance(scored, tuple) else (scored, None)
        expected = (plan.targets, plan.draw, candidates[0].shape[0])
        if costs.cross.shape != expected:
            raise InputError(
                f"the score function returned costs {list(costs.cross.shape)}; "
                f"the plan and the candidates require [T, V, B] = {list(expected)}"
            )
        costs = costs.upcast()
        if self.check:
            self._check_finite(costs)
        return costs, targets

    def _check_finite(self, costs: Costs) -> None:
        """Checks at once on the CPU. A GPU's flag is copied here and read at a later call, since waiting would stall
        steps."""
        if not costs.cross.is_cuda:
            costs.check()
            return
        finite, known = costs.finite(), self._known
        if known is None or self._finite is None:
            known = self._known = torch.ones((), dtype=torch.bool).pin_memory()
        else:
            finite = finite & self._finite
        if not known:
            raise RunError(NOT_FINITE)
        self._finite = finite
        known.copy_(finite, non_blocking=True)


def pairwise(model: Callable[[Tensor], Output], loss: Callable[[Output, Output], Tensor]) -> Score:
    """The score function for a loss of two views: encodes every candidate once, then scores every pair.

    Args:
        model: maps a view ``[B, 3, h, w]`` to whatever the loss takes, such as a tensor or a tuple. It is unwrapped
            from DistributedDataParallel, whose forward would overwrite the buffers of other processes.
        loss: maps the model's **outputs** for two views (not the views) to the pair's loss **per image**, ``[B]``: a
            mean over the batch can't rank its images. It is called once for every unordered pair.

        ``HardViews`` finds the modules of both and leaves no trace in them; its docstring says how, and when to pass
        ``guard``.

    Returns:
        A function from V candidates, each ``[B, ...]``, to ``Costs`` in which all are targets.
    """
    encode: Callable[[Tensor], Output] = model.module if isinstance(model, DistributedDataParallel) else model

    def score(candidates: list[Tensor]) -> Costs:
        outputs = [encode(view) for view in candidates]
        count, batch = len(outputs), candidates[0].shape[0]
        rows: list[list[Tensor | None]] = [[None] * count for _ in range(count)]
        for a in range(count):
            for b in range(a + 1, count):
                cost = loss(outputs[a], outputs[b])
                if cost.shape != (batch,):
                    raise InputError(
                        f"the loss of a pair of views returned shape {list(cost.shape)}; "
                        f"it must return one value per image, [{batch}]: take no mean over the batch"
                    )
                rows[a][b] = rows[b][a] = cost
        none = candidates[0].new_zeros(batch)  # a view paired with itself: no term
        return Costs(torch.stack([torch.stack([none if x is None else x for x in row]) for row in rows]))

    return score


def gather(candidates: Sequence[Tensor], ids: Tensor, plan: ViewPlan) -> list[Tensor]:
    """Gathers the kept views, K tensors ``[B, ...]``: view k of image b is candidate ``ids[k, b]``.

    Raises:
        InputError: candidates of one slot differ in shape.
    """
    kept: list[Tensor] = []
    for slot, span in slot_slices(plan):
        draws = candidates[span]
        if any(view.shape != draws[0].shape for view in draws):
            raise InputError(f"the candidates of slot {plan.slots[slot].name!r} must have the same shape")
        stacked = torch.stack(tuple(draws))  # [V of the slot, B, ...]
        image = torch.arange(stacked.shape[1], device=stacked.device)
        rows = ids[len(kept) : len(kept) + plan.slots[slot].keep] - span.start
        kept += [stacked[row, image] for row in rows]
    return kept
