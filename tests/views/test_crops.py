"""Ways of drawing crops, against the distributions that their papers state."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.methods.dino import DINO
from hardviews.methods.simsiam import SimSiam
from hardviews.views.crops import beta_quantile, check_crops, pairs_of
from hardviews.views.draw import Views, draw
from hardviews.views.plan import Slot, ViewPlan
from hardviews.views.streams import stream

SQUARES = ViewPlan((Slot(scale=(0.05, 0.8), ratio=(1.0, 1.0)),))
BATCH = 20_000


def drawn(crops: str, plan: ViewPlan = SQUARES, side: int = 4000, batch: int = BATCH) -> Views:
    size = torch.tensor([[side, side]]).expand(batch, 2)
    return draw(replace(plan, crops=crops), size, stream(0, "views", 0))


def areas(views: Views) -> Tensor:
    box = views.box
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_log_ratio_of_a_pairs_areas_and_the_first_given_it(beta: float) -> None:
    area = areas(drawn(f"joint_crop({beta})"))
    low, high = 0.05, 0.8
    most = torch.tensor(high / low).log()
    for a, b in ((0, 1), (2, 3)):
        share = (area[b] / area[a]).log() / most  # -1 to 1; |share| is distributed as u^(1 / (1 + beta))
        uniform = share.abs().clamp(0, 1) ** (1 + beta)
        quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
        torch.testing.assert_close(uniform.quantile(quantiles), quantiles, atol=0.015, rtol=0)
        assert abs((share > 0).double().mean() - 0.5) < 0.015
        ratio = area[b] / area[a]
        first = (area[a] - (low / ratio).clamp_min(low)) / (
            (high / ratio).clamp_max(high) - (low / ratio).clamp_min(low)
        )
        inner = first[share.abs() < 0.9]  # where the range is wide enough for whole pixels
        torch.testing.assert_close(inner.quantile(quantiles), quantiles, atol=0.015, rtol=0)
    assert (area[0] / area[2]).log().abs().mean() < (
        area[0] / area[1]
    ).log().abs().mean()  # other views are independent
    assert area.amin() > low - 1e-3
    assert area.amax() < high + 1e-3


def test_pairs() -> None:
    assert pairs_of(SimSiam.default_plan(32)) == [(0, 1), (2, 3)]
    assert pairs_of(DINO.default_plan(32)) == [(0, 2), (1, 3)]  # A's with B's; local crops are drawn one by one


@pytest.mark.parametrize("alpha", [0.5, 0.6, 1.0])
def test_quantiles_are_those_of_the_beta_distribution(alpha: float) -> None:
    """By its moments: E x = 1/2, E x² and E x⁴ from the recursion (alpha + r) / (2 alpha + r)."""
    x = beta_quantile((torch.arange(200_000) + 0.5) / 200_000, alpha)
    moment = 1.0
    for power in range(1, 5):
        moment *= (alpha + power - 1) / (2 * alpha + power - 1)
        assert (x**power).mean().item() == pytest.approx(moment, abs=1e-4)
    assert bool((x.diff() >= 0).all())


def test_centres_lie_in_the_middle_box_and_away_from_its_middle() -> None:
    plan = ViewPlan((Slot(scale=(0.1, 0.1), ratio=(1.0, 1.0)),))
    box = drawn("contrastive_crop(0.6)", plan).box
    for axis in (0, 1):
        centre = (box[..., axis] + box[..., axis + 2]) / 2
        place = (centre - 0.25) * 2  # 0 to 1 in the box
        assert place.amin() >= -1e-3
        assert place.amax() <= 1 + 1e-3
        assert place.mean().item() == pytest.approx(0.5, abs=0.01)
        assert place.var().item() == pytest.approx(1 / (4 * (2 * 0.6 + 1)), abs=0.003)
    wide = drawn("contrastive_crop(0.6)", ViewPlan((Slot(scale=(0.9, 1.0)),))).box
    assert wide.amin() >= 0
    assert wide.amax() <= 1


@pytest.mark.parametrize("crops", ["joint_crop(0)", "contrastive_crop(0.6)"])
def test_boxes_alone_differ_and_a_process_draws_its_part(crops: str) -> None:
    size = torch.tensor([[60, 90], [40, 40], [33, 70], [128, 64]])
    plan, other = DINO.default_plan(32), replace(DINO.default_plan(32), crops=crops)
    plain, views = (draw(p, size, stream(0, "views", 1)) for p in (plan, other))
    assert not torch.equal(plain.box, views.box)
    for name in ("flip", "jitter", "order", "grey", "blur", "solarize", "ticket"):
        assert torch.equal(getattr(plain, name), getattr(views, name))
    half = draw(other, size[2:], stream(0, "views", 1), start=2, total=4)
    assert torch.equal(half.box, views.box[:, 2:])
    # Of four candidates of a kind the first two are those of the method without selection.
    four = replace(SimSiam.default_plan(32), crops=crops)
    two = draw(four.without_selection(), size, stream(0, "views", 1))
    assert torch.equal(draw(four, size, stream(0, "views", 1)).box[:2], two.box)


@pytest.mark.parametrize("crops", ["joint", "joint_crop(-1)", "contrastive_crop(0.2)", "joint_crop(x)", ""])
def test_what_is_no_way_of_drawing(crops: str) -> None:
    with pytest.raises(InputError, match="crops"):
        check_crops(crops)
