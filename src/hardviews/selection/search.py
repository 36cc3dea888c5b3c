"""Exact search for the best combination of views that a plan allows. C combinations, K_T kept targets."""

from functools import lru_cache
from itertools import accumulate, chain, combinations, product
from math import comb, prod

import torch
from torch import Generator, Tensor

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.views.plan import ViewPlan

MOST_COMBINATIONS = 100_000  # of target views: more would take seconds per step
CHUNK = 1 << 22  # costs gathered at a time: 16 MB in float32

Layout = tuple[tuple[int, int, bool], ...]  # (draw, keep, target) of every slot: all that a search depends on


def hardest_ids(costs: Costs, plan: ViewPlan, allowed: Tensor | None = None) -> Tensor:
    """The choice with the largest total among all that the plan allows, int64 ``[K, B]``.

    Once the targets are chosen, the other views add up independently. So the search enumerates only the combinations of
    target views (4 for DINO's plan, which allows 51,480 combinations) and finds the best of the rest by sorting. Among
    equal totals, the lexicographically smallest tuple of ids wins.

    Args:
        allowed: bool ``[V, B]``, candidates that may be kept, at least as many of each slot as it keeps; None for all.

    Raises:
        InputError: the plan allows more than 100,000 combinations of target views.
    """
    layout = layout_of(plan)
    combos = target_combinations(layout, costs.cross.device)  # [C, K_T]
    free = [slot for slot, (_, _, target) in enumerate(layout) if not target]
    targets = combos[best_of(costs, plan, combos, free, allowed)].T  # [K_T, B]

    views, batch = costs.cross.shape[1:]
    gain = costs.cross.gather(0, targets[:, None].expand(-1, views, batch)).sum(0)  # [V, B]
    if allowed is not None:
        gain = gain.masked_fill(~allowed, -torch.inf)
    rest = [largest(gain[span], layout[slot][1]) + span.start for slot, span in slot_slices(plan) if slot in free]
    return torch.cat([targets, *rest])


def first_ids(plan: ViewPlan, batch: int, device: torch.device) -> Tensor:
    """The choice of the first candidates of every slot, ``[K, B]``: the views that the plain method would draw."""
    ids = [id for slot, span in slot_slices(plan) for id in range(span.start, span.start + plan.slots[slot].keep)]
    # Filled, not copied: a copy would wait for a GPU.
    rows = [torch.full((batch,), id, dtype=torch.int64, device=device) for id in ids]
    return torch.stack(rows)


def random_ids(plan: ViewPlan, batch: int, generator: Generator) -> Tensor:
    """A uniformly random choice for each image, with replacement, ``[K, B]`` on the generator's device."""
    ticket = torch.rand(plan.draw, batch, generator=generator, device=generator.device)  # [V, B]
    return largest_by_slot(ticket, plan)


def best_of(costs: Costs, plan: ViewPlan, combos: Tensor, free: list[int], allowed: Tensor | None = None) -> Tensor:
    """The index of the combination with the largest total, int64 ``[B]``; the first among equals.

    Args:
        combos: int64 ``[C, k]``, target views first: all kept views, or all except those of the ``free`` slots.
        free: slots outside ``combos``, without targets; each contributes its best views to every combination.
        allowed: as of ``hardest_ids``. Combinations with another view lose; where all do, the first is taken.
    """
    cross = costs.cross.clone()  # [T, V, B]
    cross.diagonal(dim1=0, dim2=1).zero_()  # so that a target's term with itself adds nothing
    _, views, batch = cross.shape
    kept_targets = plan.kept_targets
    barred = None if allowed is None else torch.zeros_like(cross[0]).masked_fill(~allowed, -torch.inf)  # [V, B]
    best = torch.full((batch,), -torch.inf, dtype=cross.dtype, device=cross.device)
    chosen = torch.zeros(batch, dtype=torch.int64, device=cross.device)

    size = max(1, CHUNK // max(kept_targets * views * batch, 1))
    for start in range(0, len(combos), size):
        part = combos[start : start + size]  # [C, k]
        targets = part[:, :kept_targets]
        gain = cross[targets].sum(1)  # [C, V, B]: what each view adds, given the kept targets
        total = gain.gather(1, part[:, :, None].expand(-1, -1, batch)).sum(1)  # [C, B]
        for slot, span in slot_slices(plan):
            if slot in free:  # only the values matter here, so topk is enough; ids need the stable sort of `largest`
                adds = gain[:, span] if barred is None else gain[:, span] + barred[span]
                total = total + adds.topk(plan.slots[slot].keep, dim=1).values.sum(1)
        if costs.own is not None:
            total = total + max(plan.keep - 1, 1) * costs.own[targets].sum(1)
        if barred is not None:
            total = total + barred[part].sum(1)
        value, index = total.max(0)
        better = value > best  # strictly larger, so that the first among equals stays
        best = torch.where(better, value, best)
        chosen = torch.where(better, index + start, chosen)
    return chosen


def every_combination(plan: ViewPlan, most: int) -> Tensor | None:
    """All choices that the plan allows, int64 ``[C, K]`` on the CPU, in lexicographic order; None if there are more
    than ``most``."""
    if combinations_of(plan) > min(most, MOST_COMBINATIONS):
        return None
    layout = tuple((draw, keep, True) for draw, keep, _ in layout_of(plan))
    return target_combinations(layout, torch.device("cpu"))


def combinations_of(plan: ViewPlan) -> int:
    """The number of choices that the plan allows: 6 for two of four views, 51,480 for DINO's."""
    return prod(comb(slot.draw, slot.keep) for slot in plan.slots)


def totals(costs: Costs, combos: Tensor) -> Tensor:
    """The total of every combination ``[C, K]`` for every image, ``[C, B]``."""
    count, batch = len(combos), costs.cross.shape[2]
    own = None if costs.own is None else costs.own.repeat(1, count)
    ids = combos.T.repeat_interleave(batch, dim=1)  # [K, C·B]
    return Costs(costs.cross.repeat(1, 1, count), own).total(ids).view(count, batch)


def mean_total(costs: Costs, plan: ViewPlan) -> Tensor:
    """The mean total over every combination that the plan allows, ``[B]``: exact, by how often each term is kept."""
    cross_weight, own_weight = mean_weights(layout_of(plan), costs.cross.device, costs.cross.dtype)
    mean = (costs.cross * cross_weight).sum((0, 1))
    return mean if costs.own is None else mean + (costs.own * own_weight).sum(0)


def largest(values: Tensor, keep: int) -> Tensor:
    """The ids of the ``keep`` largest of ``[n, B]``, ascending, ``[keep, B]``; the smaller id wins a tie.

    Uses a stable sort, since topk breaks ties arbitrarily.
    """
    return values.sort(dim=0, descending=True, stable=True).indices[:keep].sort(dim=0).values


def largest_by_slot(values: Tensor, plan: ViewPlan) -> Tensor:
    """Ids ``[K, B]`` of each slot's largest values among ``[V, B]``."""
    return torch.cat([largest(values[span], plan.slots[slot].keep) + span.start for slot, span in slot_slices(plan)])


def slot_slices(plan: ViewPlan) -> list[tuple[int, slice]]:
    """Every slot with the slice of its candidates."""
    ends = list(accumulate(slot.draw for slot in plan.slots))
    return [
        (index, slice(end - slot.draw, end)) for index, (slot, end) in enumerate(zip(plan.slots, ends, strict=True))
    ]


def layout_of(plan: ViewPlan) -> Layout:
    return tuple((slot.draw, slot.keep, slot.target) for slot in plan.slots)


@lru_cache(maxsize=32)
def target_combinations(layout: Layout, device: torch.device) -> Tensor:
    """Every allowed choice of target views, int64 ``[C, K_T]``, in lexicographic order."""
    targets = [(draw, keep) for draw, keep, target in layout if target]
    count = prod(comb(draw, keep) for draw, keep in targets)
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"{count:,} combinations of target views are too many to search exactly (at most {MOST_COMBINATIONS:,}); "
            "draw fewer candidates, or use the policy sampled(limit)"
        )
    ends = accumulate(draw for draw, _ in targets)
    per_slot = [combinations(range(end - draw, end), keep) for (draw, keep), end in zip(targets, ends, strict=True)]
    rows = [list(chain.from_iterable(parts)) for parts in product(*per_slot)]
    with torch.inference_mode(False):  # cached for later calls, which may run outside inference mode
        return torch.tensor(rows, dtype=torch.int64, device=device)


@lru_cache(maxsize=32)
def mean_weights(layout: Layout, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mean weight of every term in the total: of cross ``[T, V, 1]``, of own ``[T, 1]``.

    A slot keeps a view in k / n of its combinations, and two of its views in k (k - 1) / (n (n - 1)) of them.
    """
    slot_of = [slot for slot, (draw, _, _) in enumerate(layout) for _ in range(draw)]
    kept = sum(keep for _, keep, _ in layout)
    kept_targets = sum(keep for _, keep, target in layout if target)
    targets = sum(draw for draw, _, target in layout if target)

    def together(t: int, v: int) -> float:
        (draw, keep, _), (other_draw, other_keep, _) = layout[slot_of[t]], layout[slot_of[v]]
        if t == v:
            return 0.0  # no term
        if slot_of[t] == slot_of[v]:
            return keep * (keep - 1) / (draw * (draw - 1))
        return keep / draw * other_keep / other_draw

    terms = kept_targets * max(kept - 1, 1)
    cross = [[together(t, v) / terms for v in range(len(slot_of))] for t in range(targets)]
    own = [layout[slot_of[t]][1] / layout[slot_of[t]][0] / kept_targets for t in range(targets)]
    with torch.inference_mode(False):
        return (
            torch.tensor(cross, dtype=dtype, device=device)[:, :, None],
            torch.tensor(own, dtype=dtype, device=device)[:, None],
        )
