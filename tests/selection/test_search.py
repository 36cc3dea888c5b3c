"""The exact search against every combination, for 600 draws of costs of 4 images, and for DINO's own plan."""

import pytest
import torch

from hardviews.errors import InputError
from hardviews.selection import search
from hardviews.selection.costs import Costs
from hardviews.selection.policies import easiest, sampled
from hardviews.selection.search import hardest_ids, mean_total, totals
from hardviews.views.plan import ViewPlan
from tests.selection import brute_force as brute

GENERATOR = torch.Generator()
IDS = [" ".join(f"{slot.draw}→{slot.keep}{'' if slot.target else 'n'}" for slot in plan.slots) for plan in brute.PLANS]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("plan", brute.PLANS, ids=IDS)
def test_equals_every_combination(plan: ViewPlan, own: bool) -> None:
    for seed in range(10):
        for integers in (2, 4):  # ids, with many ties
            costs = brute.random_costs(plan, 4, seed, own=own, integers=integers)
            assert torch.equal(hardest_ids(costs, plan), brute.first_best(costs, plan))
            opposite = Costs(-costs.cross, None if costs.own is None else -costs.own)
            assert torch.equal(easiest(costs, plan, None, GENERATOR), brute.first_best(opposite, plan))
        costs = brute.random_costs(plan, 4, seed, own=own)
        totals = brute.every_total(costs, plan)
        torch.testing.assert_close(costs.total(hardest_ids(costs, plan)), totals.amax(0))
        torch.testing.assert_close(costs.total(easiest(costs, plan, None, GENERATOR)), totals.amin(0))


@pytest.mark.parametrize("own", [False, True], ids=["dino", "ibot"])
def test_multi_crop_equals_every_combination_in_500_cases(own: bool) -> None:
    """Two kinds of global view, and local ones: 80 combinations, of random and, for ids, of integer costs."""
    plan = brute.plan_of((2, 1, True), (2, 1, True), (6, 3, False))
    for seed in range(5):
        costs = brute.random_costs(plan, 100, seed, own=own)
        chosen = costs.total(hardest_ids(costs, plan))
        torch.testing.assert_close(chosen, brute.every_total(costs, plan).amax(0))
        costs = brute.random_costs(plan, 100, 100 + seed, own=own, integers=3)
        assert torch.equal(hardest_ids(costs, plan), brute.first_best(costs, plan))


@pytest.mark.parametrize("own", [False, True])
def test_dino_plan_equals_all_51480_combinations(own: bool) -> None:
    assert len(brute.every_combination(brute.DINO)) == 51_480
    costs = brute.random_costs(brute.DINO, 2, 0, own=own, integers=3)
    assert torch.equal(hardest_ids(costs, brute.DINO), brute.first_best(costs, brute.DINO))
    costs = brute.random_costs(brute.DINO, 2, 1, own=own)
    totals = brute.every_total(costs, brute.DINO)
    torch.testing.assert_close(costs.total(hardest_ids(costs, brute.DINO)), totals.amax(0))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("plan", [*brute.PLANS, brute.DINO])
def test_no_images_are_no_fault(plan: ViewPlan, own: bool) -> None:
    costs = brute.random_costs(plan, 0, 0, own=own)
    for chosen in (hardest_ids(costs, plan), sampled(8)(costs, plan, None, GENERATOR)):
        assert torch.equal(chosen, brute.first_best(costs, plan))
        assert costs.total(chosen).shape == mean_total(costs, plan).shape == (0,)
    assert totals(costs, brute.every_combination(plan)[:9]).shape[1] == 0


@pytest.mark.parametrize("plan", brute.PLANS, ids=IDS)
def test_all_equal_costs_keep_the_first_of_every_slot(plan: ViewPlan) -> None:
    ids = hardest_ids(Costs(torch.ones(plan.targets, plan.draw, 3)), plan)
    assert torch.equal(ids, brute.every_combination(plan)[0][:, None].expand(-1, 3))


@pytest.mark.parametrize("plan", [*brute.PLANS, brute.DINO], ids=[*IDS, "dino"])
@pytest.mark.parametrize("own", [False, True])
def test_mean_is_that_of_every_combination(plan: ViewPlan, own: bool) -> None:
    costs = brute.random_costs(plan, 2, 7, own=own)
    costs = Costs(costs.cross.double(), None if costs.own is None else costs.own.double())
    expected = brute.every_total(costs, plan).mean(0)
    torch.testing.assert_close(mean_total(costs, plan), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("own", [False, True])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    plan = brute.PLANS[-1]
    costs = brute.random_costs(plan, 5, 3, own=own, integers=2)
    whole = hardest_ids(costs, plan)
    monkeypatch.setattr(search, "CHUNK", 1000)
    assert torch.equal(hardest_ids(costs, plan), whole)


def test_costs_are_left_as_they_were() -> None:
    costs = brute.random_costs(brute.DINO, 2, 0)
    before = costs.cross.clone()
    hardest_ids(costs, brute.DINO)
    assert torch.equal(costs.cross, before)


def test_too_many_combinations_name_the_policy_that_samples() -> None:
    plan = brute.plan_of((30, 10, True))
    with pytest.raises(InputError, match=r"30,045,015 combinations .* sampled\(limit\)"):
        hardest_ids(Costs(torch.zeros(30, 30, 1)), plan)


def test_what_is_cached_in_inference_mode_serves_outside_of_it() -> None:
    plan = brute.plan_of((7, 2, True))  # of no other test, so that its first use is here
    with torch.inference_mode():
        mean_total(Costs(torch.rand(7, 7, 2)), plan)
    cross = torch.rand(7, 7, 2, requires_grad=True)
    mean_total(Costs(cross), plan).sum().backward()  # type: ignore[no-untyped-call]
    assert cross.grad is not None
