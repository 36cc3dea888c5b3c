from collections import Counter
from dataclasses import replace

import pytest
import torch

from hardviews.errors import InputError
from hardviews.selection import policies
from hardviews.selection.costs import Costs
from hardviews.selection.policies import hardest, highest_iou, lowest_iou, named, needs_costs, random, sampled
from hardviews.views.boxes import pairwise_iou
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan
from tests.selection import brute_force as brute


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("plan", brute.PLANS)
def test_overlap_policies_equal_every_combination(plan: ViewPlan) -> None:
    views = brute.views_of(plan, 20)
    iou = Costs(pairwise_iou(views.box)[: plan.targets])
    totals = brute.every_total(iou, plan)
    torch.testing.assert_close(iou.total(lowest_iou(None, plan, views, seeded())), totals.amin(0))
    torch.testing.assert_close(iou.total(highest_iou(None, plan, views, seeded())), totals.amax(0))


def test_overlap_policies_ask_for_views() -> None:
    with pytest.raises(InputError, match="pass the drawn views"):
        lowest_iou(None, brute.PAIRS, None, seeded())


@pytest.mark.parametrize("plan", brute.PLANS)
def test_sampled_is_never_harder_than_exact_and_equals_it_in_the_limit(plan: ViewPlan) -> None:
    costs = brute.random_costs(plan, 6, 0, own=True, integers=50)
    exact = costs.total(hardest(costs, plan, None, seeded()))
    few = costs.total(sampled(3)(costs, plan, None, seeded()))
    assert bool((few <= exact).all())
    many = costs.total(sampled(40 * len(brute.every_combination(plan)))(costs, plan, None, seeded()))
    assert torch.equal(many, exact)


def test_sampled_draws_one_list_for_the_whole_batch_from_the_generator() -> None:
    costs = brute.random_costs(brute.DINO, 8, 0)
    first = sampled(1)(costs, brute.DINO, None, seeded(1))
    assert bool((first == first[:, :1]).all())
    assert torch.equal(first, sampled(1)(costs, brute.DINO, None, seeded(1)))
    assert not torch.equal(first, sampled(1)(costs, brute.DINO, None, seeded(2)))


def test_sampled_keeps_the_hardest_of_its_list() -> None:
    costs, generator = brute.random_costs(brute.DINO, 8, 0), seeded(3)
    one_by_one = [costs.total(sampled(1)(costs, brute.DINO, None, generator)) for _ in range(64)]
    assert len({total[0].item() for total in one_by_one}) > 50  # the generator moves on
    more = costs.total(sampled(256)(costs, brute.DINO, None, seeded(3))).mean()
    few = costs.total(sampled(16)(costs, brute.DINO, None, seeded(3))).mean()
    assert torch.stack(one_by_one).mean() < few < more


@pytest.mark.parametrize("by_ticket", [False, True])
@pytest.mark.parametrize("plan", [brute.PAIRS, brute.plan_of((2, 1, True), (2, 1, True), (4, 2, False))])
def test_random_is_uniform_over_combinations(plan: ViewPlan, by_ticket: bool) -> None:
    batch = 12_000
    costs = Costs(torch.zeros(()).expand(plan.targets, plan.draw, batch))
    views = brute.views_of(plan, batch) if by_ticket else None
    ids = random(None if by_ticket else costs, plan, views, seeded())
    counts = Counter(tuple(row) for row in ids.T.tolist())
    allowed = brute.every_combination(plan)
    assert set(counts) == {tuple(row) for row in allowed.tolist()}
    expected = batch / len(allowed)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(allowed) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_random_by_ticket_keeps_the_largest_tickets_and_no_generator_is_used() -> None:
    views, generator = brute.views_of(brute.PAIRS, 50), seeded()
    before = generator.get_state()
    ids = random(None, brute.PAIRS, views, generator)
    assert torch.equal(ids, views.ticket.topk(2, dim=0).indices.sort(0).values)
    assert torch.equal(generator.get_state(), before)
    # A process that holds the second half of the batch chooses as one that holds all of it.
    half = views[25:]
    assert torch.equal(random(None, brute.PAIRS, half, generator), ids[:, 25:])


def test_policies_are_found_by_name() -> None:
    assert policies.names() == [
        "easiest", "hardest", "highest_iou", "learnable", "lowest_iou", "random", "rescue", "sampled", "unexpected",
    ]  # fmt: skip
    assert named("hardest") is hardest
    assert [needs_costs(named(name)) for name in policies.names()] == [
        True, True, False, True, False, False, True, True, True,
    ]  # fmt: skip
    costs = brute.random_costs(brute.DINO, 4, 0)
    for name, limit in (("sampled", 64), ("sampled(128)", 128)):
        expected = sampled(limit)(costs, brute.DINO, None, seeded())
        assert torch.equal(named(name)(costs, brute.DINO, None, seeded()), expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hardst", "unknown policy 'hardst'; did you mean hardest"),
        ("", "unknown policy ''"),
        ("hardest(3)", "hardest takes no number"),
        ("sampled(many)", r"sampled takes a whole number, such as sampled\(64\)"),
        ("sampled(3", "takes a whole number"),
        ("sampled(2.5)", "takes a whole number"),
        ("rescue(x)", r"such as rescue\(4\)"),
        ("learnable(x)", r"learnable takes a number, such as learnable\(0.99\)"),
        ("unexpected(-1)", r"unexpected takes a number, such as unexpected\(1\)"),
    ],
)
def test_wrong_names(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        named(name)


def test_a_limit_below_one() -> None:
    with pytest.raises(InputError, match="1 or more"):
        named("sampled(0)")


def test_a_policy_of_ones_own_needs_costs() -> None:
    def last(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError

    assert needs_costs(last)


@pytest.mark.parametrize("plan", brute.PLANS)
@pytest.mark.parametrize("own", [False, True])
def test_learnable_is_the_largest_difference_of_every_combination(plan: ViewPlan, own: bool) -> None:
    student, teacher = (brute.random_costs(plan, 20, seed, own=own) for seed in (0, 1))
    ids = named("learnable")(replace(student, reference=teacher), plan, None, seeded())
    difference = brute.every_total(student, plan) - brute.every_total(teacher, plan)
    kept = student.total(ids) - teacher.total(ids)
    torch.testing.assert_close(kept, difference.amax(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="none were given"):
        named("learnable")(student, plan, None, seeded())


@pytest.mark.parametrize("plan", brute.PLANS)
def test_rescue_is_the_hardest_for_the_easiest_images_alone(plan: ViewPlan) -> None:
    costs = brute.random_costs(plan, 20, 0, own=True, integers=4)
    first = brute.every_combination(plan)[0]
    ids = named("rescue(3)")(costs, plan, None, seeded())
    plain = brute.every_total(costs, plan)[0].tolist()
    easiest = sorted(range(20), key=lambda image: (plain[image], image))[: 20 // 3]
    for image in range(20):
        expected = brute.first_best(costs, plan)[:, image] if image in easiest else first
        assert torch.equal(ids[:, image], expected)
    assert torch.equal(named("rescue(1)")(costs, plan, None, seeded()), hardest(costs, plan, None, seeded()))
    with pytest.raises(InputError, match="1 is all of them"):
        named("rescue(0)")
