"""LeJEPA's loss and gradients against lightly's, its choice against every combination, SIGReg against the integral in
closed form, and a step against a plain loop."""

import math
from typing import Any

import pytest
import torch
from lightly.loss import LeJEPALoss
from torch import Tensor

from hardviews.errors import InputError
from hardviews.methods.lejepa import KNOTS, REACH, LeJEPA, LeJEPAEncoding, sigreg
from hardviews.selection.costs import Costs
from hardviews.selection.search import best_of, hardest_ids, mean_total, totals
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream
from tests.methods import by_hand
from tests.methods.multi_crop import pictures, small
from tests.methods.tiny import TinyBackbone, without_bn
from tests.selection import brute_force as brute
from tests.selection.test_search import IDS

DIM, DIRECTIONS = 6, 32


def method(plan: ViewPlan | None = None, **settings: Any) -> LeJEPA:
    torch.manual_seed(0)
    keywords = {"dim": DIM, "hidden_dim": 24, "directions": DIRECTIONS} | settings
    return LeJEPA(TinyBackbone(), plan or small(LeJEPA.default_plan(16)), **keywords)


def directions_of(step: int) -> Tensor:
    """Of a step, as drawn."""
    return torch.randn(DIM, DIRECTIONS, generator=stream(0, "directions", step))


def lightlys(weight: float, step: int = 0) -> LeJEPALoss:
    """Lightly's loss in float64, with the directions of a step."""
    criterion = LeJEPALoss(weight, sigreg_num_vectors=DIRECTIONS).double()
    found = criterion.sigreg
    window = (-found.t.square() / 2).exp()
    trapezoids = torch.full((KNOTS,), 2 * REACH / (KNOTS - 1), dtype=torch.float64)
    trapezoids[[0, -1]] /= 2
    found.phi, found.weights = window, trapezoids * window  # its own are rounded to float32
    drawn = directions_of(step).double()
    found._generate_unit_vectors = lambda *_: drawn / drawn.norm(dim=0)
    return criterion


def centred(kept: Tensor, targets: int) -> Tensor:
    """The prediction loss by its definition: kept views ``[K, ..., D]`` to ``[...]``."""
    centre = kept[:targets].mean(0)
    return (kept - centre).square().mean((0, -1))


@pytest.mark.parametrize("weight", [0.05, 0.5])
@pytest.mark.parametrize("step", [0, 7])
def test_loss_and_gradients_equal_lightly(weight: float, step: int) -> None:
    lejepa = method(weight=weight).double()
    lejepa.progress = lejepa.progress._replace(step=step, steps=10)
    kept = pictures(lejepa.plan, kept=True)
    ours = lejepa.loss(lejepa(kept))
    our_gradients = torch.autograd.grad(ours, list(lejepa.parameters()))
    projection = lejepa(kept).projection
    theirs = lightlys(weight, step)(global_proj=projection[:2], local_proj=projection[2:])
    their_gradients = torch.autograd.grad(theirs, list(lejepa.parameters()))
    assert abs(ours - theirs).item() < 1e-9
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=0)


def test_pairs_weigh_what_the_distance_to_the_centre_comes_to() -> None:
    """2 + 6 views: 1/16 for a global and a local view, -1/16 for an ordered pair of global views."""
    plan = LeJEPA.default_plan(16).without_selection()
    ones = method(plan, weight=0.0).costs(LeJEPAEncoding(torch.zeros(8, 1, DIM)))
    projection = torch.zeros(8, 1, DIM)
    projection[0] = 1  # one away from all others
    cross = method(plan, weight=0.0).costs(LeJEPAEncoding(projection)).cross / (2 * 7)  # what total divides by
    assert not ones.cross.any()
    torch.testing.assert_close(cross[0, 1:, 0], torch.tensor([-1 / 16] + [1 / 16] * 6))
    torch.testing.assert_close(cross[1, 0], torch.tensor([-1 / 16]))


@pytest.mark.parametrize("plan", brute.PLANS, ids=IDS)
def test_choice_and_totals_equal_every_combination(plan: ViewPlan) -> None:
    lejepa = method(plan, weight=0.2)
    combos, targets = brute.every_combination(plan), plan.kept_targets
    for seed in range(5):
        projection = torch.randn(plan.draw, 6, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        expected = torch.stack([0.8 * centred(projection[combo], targets) for combo in combos])  # [C, B]
        costs = lejepa.costs(LeJEPAEncoding(projection))
        torch.testing.assert_close(totals(costs, combos), expected, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(mean_total(costs, plan), expected.mean(0), atol=1e-12, rtol=1e-9)
        if plan.keep > 1:  # of one view, all costs are zero
            hardest = combos[expected.argmax(0)].T
            assert torch.equal(hardest_ids(costs, plan), hardest)
            assert torch.equal(combos[best_of(costs, plan, combos, [])].T, hardest)
            opposite = Costs(-costs.cross)
            assert torch.equal(hardest_ids(opposite, plan), combos[expected.argmin(0)].T)


def test_of_global_views_as_far_from_the_local_ones_those_that_agree_are_hardest() -> None:
    plan = LeJEPA.default_plan(16, locals=6)
    projection = torch.zeros(plan.draw, 1, DIM, dtype=torch.float64)
    angle = torch.tensor([0.0, 3.0, 0.1, -1.5])
    projection[:4, 0, 0], projection[:4, 0, 2] = angle.cos(), angle.sin()
    projection[4:, 0, 1] = torch.arange(12)
    ids = hardest_ids(method(plan).costs(LeJEPAEncoding(projection)), plan)
    assert ids[:, 0].tolist() == [0, 2, *range(10, 16)]


def test_training_adds_sigreg_to_what_selection_compares() -> None:
    """What a choice costs among the candidates is the loss of its views alone, but for SIGReg of them."""
    lejepa: Any = without_bn(method()).double()
    plan, candidates = lejepa.plan, pictures(lejepa.plan)
    costs = lejepa.costs(lejepa(candidates))
    ids = hardest_ids(costs, plan)
    image = torch.arange(ids.shape[1])
    kept = lejepa([torch.stack([candidates[int(v)][i] for i, v in zip(image, row, strict=True)]) for row in ids])
    per_image = lejepa.costs(kept)
    torch.testing.assert_close(per_image.total(per_image.all_ids()), costs.total(ids), atol=1e-12, rtol=1e-9)
    batch = sigreg(kept.projection, directions_of(0).double())
    assert batch > 0.1
    torch.testing.assert_close(lejepa.loss(kept), costs.total(ids).mean() + 0.05 * batch, atol=1e-12, rtol=1e-9)


def test_sigreg_is_the_integral() -> None:
    """Of one dimension, against the integral over all frequencies in closed form; beyond 3 little is left."""
    generator = torch.Generator().manual_seed(0)
    for spread, shift in ((1.0, 0.0), (0.2, 0.0), (1.0, 1.5), (3.0, 0.0), (0.0, 0.0)):
        x = shift + spread * torch.randn(50, generator=generator, dtype=torch.float64)
        between = (-(x[:, None] - x).square() / 2).exp().mean() * 50
        whole = math.sqrt(2 * math.pi) * (between - math.sqrt(2) * (-x.square() / 4).exp().sum() + 50 / math.sqrt(3))
        found = sigreg(x[None, :, None], torch.tensor([[2.0, -0.5]], dtype=torch.float64))
        torch.testing.assert_close(found, whole, rtol=0.03, atol=0.01)


def test_directions_are_those_of_the_step_whatever_was_drawn() -> None:
    lejepa, kept = method(), LeJEPAEncoding(torch.randn(8, 5, DIM))
    losses: list[float] = []
    for step in (3, 4, 3):
        torch.manual_seed(len(losses))
        lejepa.progress = lejepa.progress._replace(step=step, steps=10)
        before = torch.get_rng_state()
        losses.append(lejepa.loss(kept).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[2] != losses[1]


def test_a_step_is_that_of_a_plain_loop() -> None:
    criterion = lightlys(0.05).float()

    def loss(kept: Tensor) -> Tensor:
        found: Tensor = criterion(global_proj=kept[:2], local_proj=kept[2:])
        return found

    plan = small(LeJEPA.default_plan(16))
    criterion.sigreg._generate_unit_vectors = lambda *_: directions_of(0) / directions_of(0).norm(dim=0)
    written = by_hand.by_hand(method(plan), lambda kept: centred(kept, 2), loss)
    by_hand.assert_the_same(by_hand.by_library(method(plan)), written)


def test_costs_and_loss_stay_float32_under_autocast() -> None:
    lejepa = method()
    encoding = LeJEPAEncoding(torch.randn(lejepa.plan.keep, 5, DIM).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cross, loss = lejepa.costs(encoding).cross, lejepa.loss(encoding)
    exact = LeJEPAEncoding(encoding.projection.float())
    assert torch.equal(cross, lejepa.costs(exact).cross)
    assert torch.equal(loss, lejepa.loss(exact))
    assert loss.dtype == torch.float32


def test_without_local_views_all_views_are_global() -> None:
    plan = LeJEPA.default_plan(16, globals=4, locals=0)
    projection = torch.randn(4, 5, DIM, dtype=torch.float64)
    costs = method(plan).costs(LeJEPAEncoding(projection))
    torch.testing.assert_close(costs.total(costs.all_ids()), 0.95 * centred(projection, 4))


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"method\.weight"):
        method(weight=1.5)
    with pytest.raises(InputError, match=r"method\.directions"):
        method(directions=0)
    with pytest.raises(InputError, match="one view alone has nothing to be near"):
        LeJEPA.default_plan(32, globals=1, locals=0)
    with pytest.raises(InputError, match=r"plan\.globals 0"):
        LeJEPA.default_plan(32, globals=0)
