"""The policy ``unexpected`` against a regression by least squares and an enumeration of every combination."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import HardViews
from hardviews.selection.pair_features import (
    NUMBERS,
    PIXELS,
    TONES,
    number_features,
    numbers_of,
    pixel_features,
    with_products,
)
from hardviews.selection.policies import hardest, named
from hardviews.selection.unexpected import FORGETTING, RIDGE, Unexpected, kinds_of
from hardviews.views.draw import Views, draw
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.streams import stream
from tests.selection import brute_force as brute

COLOURS = Photometric(0.4, 0.4, 0.4, 0.1, grey_p=0.2, blur_p=0.5, solarize_p=0.2)
PAIRS = ViewPlan((Slot(photometric=COLOURS),))
CROPS = ViewPlan(
    (
        Slot("A", draw=2, keep=1, photometric=COLOURS),
        Slot("B", draw=3, keep=2, photometric=COLOURS),
        Slot("local", draw=4, keep=2, target=False, scale=(0.05, 0.4), photometric=COLOURS),
    )
)
BATCH = 160


def views_of(plan: ViewPlan, step: int, batch: int = BATCH) -> Views:
    return draw(plan, torch.tensor([[90, 120]]).expand(batch, 2), stream(0, "views", step))


def costs_of(plan: ViewPlan, views: Views, step: int, noise: float = 0.5, own: bool = False) -> Costs:
    """What overlap, sizes and blur explain, and a part that nothing does."""
    costs = brute.random_costs(plan, views.box.shape[1], step, own=own)
    box = views.box
    area = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])).float()
    strength = views.blur + (1 - area) * 2
    explained = strength[: plan.targets, None] + strength + area[: plan.targets, None] * area
    whole = None if costs.own is None else noise * costs.own + 3 * views.blur[: plan.targets]
    return Costs(noise * costs.cross + explained, whole)


def taught(policy: Unexpected, plan: ViewPlan, steps: int, own: bool = False) -> Unexpected:
    for step in range(steps):
        views = views_of(plan, step)
        policy(costs_of(plan, views, step, own=own), plan, views, torch.Generator())
    return policy


def predicted_by_hand(plan: ViewPlan, steps: int, own: bool) -> Costs:
    """The prediction at step ``steps``: weighted ridge regression of every pair of every step, in float64, by
    ``numpy.linalg.lstsq`` on rows with the penalty's appended."""
    seen = [views_of(plan, step) for step in range(steps + 1)]
    costs = [costs_of(plan, views, step, own=own) for step, views in enumerate(seen)]
    slot_of = plan.slot_of()
    cross = torch.zeros(plan.targets, plan.draw, BATCH, dtype=torch.float64)
    owned = torch.zeros(plan.targets, BATCH, dtype=torch.float64)
    kinds: dict[tuple[int, int, bool], list[tuple[int, int]]] = {}
    for a in range(plan.targets):
        for b in range(a, plan.draw):
            if a != b or own:
                kinds.setdefault((slot_of[a], slot_of[b], a == b), []).append((a, b))
    for (_, _, itself), pairs in kinds.items():
        blocks, targets, latest = [], [], torch.zeros(0)
        for step in range(steps + 1):
            a, b = torch.tensor(pairs).T
            x = with_products(number_features(seen[step], a, b)).double()
            x = x - x.mean(0)
            latest, weight = x, FORGETTING ** ((steps - 1 - step) / 2)
            rows = []
            for a_, b_ in pairs:
                if itself:
                    y = costs[step].own[a_]  # type: ignore[index]
                else:
                    y = costs[step].cross[a_, b_] + (costs[step].cross[b_, a_] if b_ < plan.targets else 0)
                rows.append(y.double())
            y = torch.stack(rows)
            if step < steps:
                blocks.append(weight * x.flatten(0, 1))
                targets.append(weight * (y - y.mean(0)).flatten())
        matrix, target = torch.cat(blocks), torch.cat(targets)
        penalty = (RIDGE * matrix.square().sum(0)).sqrt().diag()
        augmented = torch.cat([matrix, penalty]).numpy()
        weights = np.linalg.lstsq(augmented, np.append(target.numpy(), np.zeros(len(penalty))), rcond=None)[0]
        expected = latest @ torch.from_numpy(weights)
        for row, (a_, b_) in enumerate(pairs):
            if itself:
                owned[a_] = expected[row]
            elif b_ < plan.targets:
                cross[a_, b_] = cross[b_, a_] = expected[row] / 2
            else:
                cross[a_, b_] = expected[row]
    return Costs(cross, owned if own else None)


@pytest.mark.parametrize(("plan", "own"), [(PAIRS, False), (CROPS, False), (CROPS, True)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_it_keeps_the_largest_cost_beyond_a_regression_by_hand(plan: ViewPlan, own: bool, strength: float) -> None:
    steps = 6
    policy = taught(Unexpected(strength), plan, steps, own)
    views = views_of(plan, steps)
    costs, expected = costs_of(plan, views, steps, own=own), predicted_by_hand(plan, steps, own)
    assert expected.cross.std() > 0.5  # something is predicted
    left = Costs(
        costs.cross - strength * expected.cross,
        None if costs.own is None or expected.own is None else costs.own - strength * expected.own,
    )
    kept = left.total(policy(costs, plan, views, torch.Generator()))
    torch.testing.assert_close(kept, brute.every_total(left, plan).amax(0), atol=2e-3, rtol=0)
    assert not torch.equal(kept, left.total(hardest(costs, plan, None, torch.Generator())))


def test_what_numbers_explain_is_taken_off() -> None:
    """Costs that the views' numbers explain whole are predicted, and a part that they can't is what is kept by."""
    policy = taught(Unexpected(), PAIRS, 30)
    views = views_of(PAIRS, 99)
    explained, costs = costs_of(PAIRS, views, 99, noise=0.0), costs_of(PAIRS, views, 99)
    noise = Costs(costs.cross - explained.cross)
    best, mean = brute.every_total(noise, PAIRS).amax(0).mean(), brute.every_total(noise, PAIRS).mean()
    kept, hard = policy(costs, PAIRS, views, torch.Generator()), hardest(costs, PAIRS, None, torch.Generator())
    assert (noise.total(kept).mean() - mean) / (best - mean) > 0.97
    assert (noise.total(hard).mean() - mean) / (best - mean) < 0.8


def test_strength_0_and_the_first_steps_are_hardest() -> None:
    none, all_of_it = taught(Unexpected(0.0), PAIRS, 10), Unexpected(1.0)
    views = views_of(PAIRS, 99)
    costs = costs_of(PAIRS, views, 99)
    exact = hardest(costs, PAIRS, None, torch.Generator())
    assert torch.equal(none(costs, PAIRS, views, torch.Generator()), exact)
    assert torch.equal(all_of_it(costs, PAIRS, views, torch.Generator()), exact)
    assert not torch.equal(taught(Unexpected(1.0), PAIRS, 10)(costs, PAIRS, views, torch.Generator()), exact)


def test_it_learns_of_every_kind_from_small_batches_too() -> None:
    """Micro-batches of 4 images have 4 pairs of a kind, and a pair has hundreds of features."""
    policy = Unexpected()
    for step in range(600):
        views = views_of(CROPS, step, 4)
        policy(costs_of(CROPS, views, step), CROPS, views, torch.Generator())
    assert (policy.rows > policy.moments.shape[1]).all()
    assert (policy._weights().abs().sum(1) > 0).all()


def test_a_constant_of_an_image_or_a_kind_changes_nothing() -> None:
    views = views_of(CROPS, 99)
    costs, policies = costs_of(CROPS, views, 99), [taught(Unexpected(), CROPS, 5) for _ in range(2)]
    moved = Costs(costs.cross + 10 * torch.rand(BATCH))
    kept = [
        costs.total(policy(given, CROPS, views, torch.Generator()))
        for policy, given in zip(policies, (costs, moved), strict=True)
    ]
    torch.testing.assert_close(kept[0], kept[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(policies[0].moments, policies[1].moments, atol=1e-4, rtol=1e-4)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    policy, other = taught(Unexpected(), CROPS, 5), Unexpected()
    other.load_state_dict({name: value.clone() for name, value in policy.state_dict().items()})
    for step in range(5, 8):
        views = views_of(CROPS, step)
        costs = costs_of(CROPS, views, step)
        assert torch.equal(*(one(costs, CROPS, views, torch.Generator()) for one in (policy, other)))
    assert torch.equal(policy.moments, other.moments)
    assert torch.equal(policy.rows, other.rows)
    fresh = Unexpected()
    fresh.load_state_dict(Unexpected().state_dict())  # of a run that has not chosen yet
    assert fresh.moments.numel() == 0


def test_costs_that_are_not_finite_teach_nothing() -> None:
    policy = taught(Unexpected(), PAIRS, 3)
    before, views = policy.moments.clone(), views_of(PAIRS, 3)
    costs = costs_of(PAIRS, views, 3)
    costs.cross[0, 1, 7] = torch.inf
    policy(costs, PAIRS, views, torch.Generator())
    assert torch.equal(policy.moments, before)
    empty = views_of(PAIRS, 3)[:0]
    ids = policy(Costs(torch.zeros(4, 4, 0)), PAIRS, empty, torch.Generator())
    assert ids.shape == (2, 0)
    torch.testing.assert_close(policy.moments, before, atol=0, rtol=1e-5)


def test_kinds_hold_every_term_of_the_total_once() -> None:
    """The sum over kinds of what pairs add is the total, of every choice."""
    costs = brute.random_costs(CROPS, 3, 0, own=True)
    kinds = kinds_of(tuple((s.draw, s.keep, s.target) for s in CROPS.slots), True, torch.device("cpu"))
    for ids in brute.every_combination(CROPS):
        kept = set(ids.tolist())
        total = torch.zeros(3)
        for a, b, mutual in kinds:
            for t, v in zip(a.tolist(), b.tolist(), strict=True):
                if {t, v} <= kept:
                    if mutual is None:
                        total += (CROPS.keep - 1) * costs.own[t]  # type: ignore[index]
                    else:
                        total += costs.cross[t, v] + (costs.cross[v, t] if mutual else 0)
        expected = costs.total(ids[:, None].expand(-1, 3))
        torch.testing.assert_close(total / (CROPS.kept_targets * (CROPS.keep - 1)), expected)


def pictures(plan: ViewPlan, step: int, size: int = 24) -> list[Tensor]:
    generator = stream(1, "pictures", step)
    strength = torch.rand(plan.draw, BATCH, 1, 1, 1, generator=generator)
    shapes = (
        torch.rand(BATCH, 3, 4, 4, generator=generator).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
    )
    return list(strength * (shapes - 0.5) + 0.1 * torch.rand(plan.draw, BATCH, 3, 1, 1, generator=generator))


def test_without_numbers_it_learns_from_pixels() -> None:
    """In a loop of one's own, where a pair of faint pictures costs more."""
    hard = HardViews(None, policy="unexpected", guard=())
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    kept = []
    for step in range(40):
        views = pictures(PAIRS, step)
        faint = -torch.stack([view.std((1, 2, 3)) for view in views])  # [4, B]
        noise = brute.random_costs(PAIRS, BATCH, step).cross * 0.05
        cross = noise + 2 * (faint[:, None] + faint[None])
        ids = hard.choose(views, score=lambda _, cross=cross: Costs(cross)).ids  # type: ignore[misc]
        unexplained = Costs(noise)
        totals = torch.stack([(noise[a, b] + noise[b, a]) / 2 for a, b in pairs])
        kept.append(
            ((unexplained.total(ids) - totals.mean(0)).mean() / (totals.amax(0) - totals.mean(0)).mean()).item()
        )
    assert kept[0] < 0.3
    assert np.mean(kept[-5:]) > 0.6


def test_features_are_symmetric_and_heed_no_normalisation() -> None:
    a, b = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 3])
    views, seen = views_of(PAIRS, 0), pictures(PAIRS, 0)
    numbers = number_features(views, a, b)
    assert numbers.shape == (3, BATCH, NUMBERS)
    torch.testing.assert_close(numbers, number_features(views, b, a))
    pixels = pixel_features(seen, a, b)
    assert pixels.shape == (3, BATCH, PIXELS)
    torch.testing.assert_close(pixel_features([7 * view - 3 for view in seen], a, b), pixels, atol=1e-3, rtol=1e-3)
    assert with_products(torch.tensor([2.0, 3.0])).tolist() == [2, 3, 4, 6, 9]


def test_what_it_can_not_work_with() -> None:
    for name in ("unexpected(1.5)", "unexpected(2)"):
        with pytest.raises(InputError, match="the strength is 0"):
            named(name)
    hard = HardViews(lambda _: Costs(torch.zeros(4, 4, 5)), policy="unexpected", guard=())
    with pytest.raises(InputError, match="pass the drawn views to choose"):
        hard([torch.zeros(5, 7)] * 4)
    policy = taught(Unexpected(), PAIRS, 1)
    views = views_of(CROPS, 0)
    with pytest.raises(InputError, match="other kinds of views"):
        policy(costs_of(CROPS, views, 0), CROPS, views, torch.Generator())


TONED = ViewPlan(
    (Slot(photometric=Photometric(gain=0.5, offset=0.2, gamma=0.5, drop_p=0.3)),), (0.5,) * 5, (0.2,) * 5, rgb=False
)


def test_tones_are_features_where_the_plan_has_them() -> None:
    views = views_of(TONED, 0)
    assert views.tone is not None
    a, b = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3])
    found = number_features(views, a, b)
    assert numbers_of(views) == found.shape[-1] == NUMBERS + TONES
    assert torch.equal(found, number_features(views, b, a))
    assert found.isfinite().all()
    assert float(found.abs().max()) < 4
    assert (found[..., NUMBERS:].std((0, 1)) > 0.05).all()
    without = replace(views, tone=None)
    assert torch.equal(found[..., :NUMBERS], number_features(without, a, b))
    assert numbers_of(without) == NUMBERS
    # By hand, of the first pair of the first image: gains of each channel apart, and channels lost in either.
    gain, dropped = views.tone[:2, 0, :, 0].numpy(), views.tone[:2, 0, :, 3].numpy()
    assert float(found[0, 0, NUMBERS]) == pytest.approx(2 * np.abs(gain[0] - gain[1]).mean() - 0.5, abs=1e-5)
    assert float(found[0, 0, -1]) == pytest.approx(2 * np.maximum(dropped[0], dropped[1]).mean() - 0.5, abs=1e-5)


def test_what_tones_explain_is_taken_off() -> None:
    """Costs that dropped channels and gains alone explain: nothing is left to choose by but noise."""

    def costs(step: int) -> tuple[Views, Costs]:
        views = views_of(TONED, step)
        assert views.tone is not None
        lost = views.tone[..., 3].mean(-1) + views.tone[..., 0].mean(-1)
        return views, Costs((lost[:, None] + lost[None]).clone())

    policy = Unexpected()
    for step in range(12):
        views, cost = costs(step)
        policy(cost, TONED, views, torch.Generator())
    views, cost = costs(12)
    left = policy._beyond_expected(cost, TONED, views, None).cross
    pairs = ~torch.eye(4, dtype=torch.bool)
    spread = [(c - c.mean(0)).std() for c in (left[pairs], cost.cross[pairs])]
    assert spread[0] < 0.1 * spread[1]
