"""Selection by enumerating every combination, written apart from the library: the oracle of these tests."""

from functools import lru_cache
from itertools import combinations, product

import torch
from torch import Tensor

from hardviews.selection.costs import Costs
from hardviews.views.draw import Views
from hardviews.views.plan import Slot, ViewPlan


def plan_of(*slots: tuple[int, int, bool]) -> ViewPlan:
    """A plan of slots (draw, keep, target)."""
    return ViewPlan(tuple(Slot(f"slot {i}", draw=d, keep=k, target=t) for i, (d, k, t) in enumerate(slots)))


PAIRS = plan_of((4, 2, True))
PLANS = [
    PAIRS,
    plan_of((8, 2, True)),
    plan_of((6, 3, True)),
    plan_of((3, 1, True)),  # one view kept: its own cost alone
    plan_of((3, 2, True), (4, 3, True)),
    plan_of((2, 1, True), (2, 1, True)),
    plan_of((2, 1, True), (2, 1, True), (6, 3, False)),
    plan_of((2, 1, True), (3, 2, False), (4, 1, False), (2, 2, False)),
    plan_of((3, 3, True), (5, 2, False)),
    plan_of((4, 2, True), (3, 2, True), (5, 3, False), (3, 1, False)),
]
DINO = plan_of((2, 1, True), (2, 1, True), (16, 8, False))


@lru_cache
def every_combination(plan: ViewPlan) -> Tensor:
    """All that the plan allows, in lexicographic order: ``[N, K]``."""
    slots, start = [], 0
    for slot in plan.slots:
        slots.append(list(combinations(range(start, start + slot.draw), slot.keep)))
        start += slot.draw
    return torch.tensor([sum(parts, ()) for parts in product(*slots)])


def every_total(costs: Costs, plan: ViewPlan) -> Tensor:
    """Of every combination, term by term from the definition: ``[N, B]``."""
    rows = every_combination(plan)
    targets, kept = sum(slot.keep for slot in plan.slots if slot.target), plan.keep
    total = torch.zeros(len(rows), costs.cross.shape[2], dtype=costs.cross.dtype)
    for i in range(targets):
        for j in range(kept):
            if i != j:
                total += costs.cross[rows[:, i], rows[:, j]]
    if costs.own is not None:
        for i in range(targets):
            total += costs.own[rows[:, i]] * max(kept - 1, 1)
    return total / (targets * max(kept - 1, 1))


def first_best(costs: Costs, plan: ViewPlan) -> Tensor:
    """The first combination of the largest total, ``[K, B]``."""
    totals = every_total(costs, plan)
    first = (totals == totals.amax(0)).int().argmax(0)  # of equal maxima argmax gives the first
    return every_combination(plan)[first].T


def random_costs(plan: ViewPlan, batch: int, seed: int, *, own: bool = False, integers: int = 0) -> Costs:
    """Normal costs, or integers from 0 below ``integers``, few enough to make ties."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        if integers:
            return torch.randint(integers, shape, generator=generator).float()
        return torch.randn(shape, generator=generator)

    cross = draw(plan.targets, plan.draw, batch)
    cross[range(plan.targets), range(plan.targets)] = 1e6  # no term: an implementation that adds it is found out
    return Costs(cross, draw(plan.targets, batch) if own else None)


def views_of(plan: ViewPlan, batch: int, seed: int = 0) -> Views:
    """Views with random boxes and tickets."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(plan.draw, batch, 2, 2, generator=generator, dtype=torch.float64).sort(dim=2).values
    shape = (plan.draw, batch)
    return Views(
        slot=torch.tensor(plan.slot_of()),
        box=corners.flatten(2),
        flip=torch.zeros(shape, dtype=torch.bool),
        jitter=torch.zeros(*shape, 4),
        order=torch.zeros(*shape, 4, dtype=torch.int64),
        grey=torch.zeros(shape, dtype=torch.bool),
        blur=torch.zeros(shape),
        solarize=torch.zeros(shape, dtype=torch.bool),
        ticket=torch.rand(shape, generator=generator),
    )
