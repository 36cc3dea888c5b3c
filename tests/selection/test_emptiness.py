"""The guard against empty views, by enumerating every combination of those that show something."""

import pytest
import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.selection.emptiness import allowed_candidates
from hardviews.selection.hard_views import HardViews
from hardviews.selection.search import hardest_ids
from hardviews.views.plan import ViewPlan
from tests.selection import brute_force as brute

POLICIES = [
    "hardest", "easiest", "random", "sampled(2)", "lowest_iou", "highest_iou", "unexpected", "rescue(2)",
]  # fmt: skip
BATCH = 60


def pictures(plan: ViewPlan, empty: Tensor) -> list[Tensor]:
    """Of which those in ``empty`` ``[V, B]`` are flat, but for faint noise."""
    torch.manual_seed(0)
    strength = torch.where(empty, 1e-3, 1.0)
    return [factor[:, None, None, None] * torch.randn(BATCH, 3, 16, 16) + 0.7 for factor in strength]


@pytest.mark.parametrize("plan", [plan for plan in brute.PLANS if plan.selects])
def test_the_best_combination_of_allowed_views(plan: ViewPlan) -> None:
    costs = brute.random_costs(plan, BATCH, 0, own=True)
    torch.manual_seed(1)
    allowed = allowed_candidates(pictures(plan, torch.rand(plan.draw, BATCH) < 0.4), plan, 0.3)
    combos, totals = brute.every_combination(plan), brute.every_total(costs, plan)
    fit = allowed[combos].all(1)  # [N, B]
    assert fit.any(0).all()
    assert not fit.all()
    ids = hardest_ids(costs, plan, allowed)
    assert allowed.gather(0, ids).all()
    torch.testing.assert_close(costs.total(ids), totals.masked_fill(~fit, -torch.inf).amax(0))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("plan", [brute.PAIRS, brute.DINO])
@pytest.mark.parametrize("numbers", [True, False])
def test_no_policy_keeps_an_empty_view_while_another_remains(plan: ViewPlan, policy: str, numbers: bool) -> None:
    if "iou" in policy and not numbers:
        pytest.skip("needs boxes")
    torch.manual_seed(2)
    empty = torch.rand(plan.draw, BATCH) < 0.5
    costs = brute.random_costs(plan, BATCH, 0)
    hard = HardViews(lambda _: costs, plan, policy, guard=(), min_contrast=0.25)
    views = brute.views_of(plan, BATCH) if numbers else None
    kept = hard.choose(pictures(plan, empty), views).ids
    start = 0
    for row, slot in zip(_rows(plan), plan.slots, strict=True):
        span = slice(start, start + slot.draw)
        start += slot.draw
        needed = (slot.keep - (~empty[span]).sum(0)).clamp_min(0)  # empty ones that must be kept
        assert torch.equal(empty.gather(0, kept[row]).sum(0), needed)
    before = HardViews(lambda _: costs, plan, policy, guard=()).choose(pictures(plan, empty), views).ids
    assert not torch.equal(before, kept)


def _rows(plan: ViewPlan) -> list[slice]:
    ends = [sum(slot.keep for slot in plan.slots[: i + 1]) for i in range(len(plan.slots))]
    return [slice(end - slot.keep, end) for end, slot in zip(ends, plan.slots, strict=True)]


def test_where_nothing_is_empty_nothing_changes() -> None:
    costs = brute.random_costs(brute.DINO, BATCH, 0)
    full = pictures(brute.DINO, torch.zeros(brute.DINO.draw, BATCH, dtype=torch.bool))
    plain, guarded = (
        HardViews(lambda _: costs, brute.DINO, guard=(), min_contrast=share).choose(full).ids for share in (0.0, 0.25)
    )
    assert torch.equal(plain, guarded)


def test_views_that_are_not_scored_may_be_kept() -> None:
    plan = brute.plan_of((3, 2, True), (3, 1, False))
    empty = torch.zeros(plan.draw, BATCH, dtype=torch.bool)
    empty[0] = True
    some = [*pictures(plan, empty)[:3], *(torch.zeros(BATCH, 0) for _ in range(3))]
    allowed = allowed_candidates(some, plan, 0.5)
    assert allowed.tolist() == [[False] * BATCH] + [[True] * BATCH] * 5


def test_what_can_not_be_guarded() -> None:
    with pytest.raises(InputError, match="must take allowed"):
        HardViews(None, policy=lambda *_: torch.zeros(2, 3), min_contrast=0.1)
    with pytest.raises(InputError, match="0 to 1"):
        HardViews(None, min_contrast=2.0)
    hard = HardViews(lambda _: Costs(torch.zeros(4, 4, 5)), guard=(), min_contrast=0.1)
    with pytest.raises(InputError, match="not pictures"):
        hard([torch.zeros(5, 7)] * 4)
