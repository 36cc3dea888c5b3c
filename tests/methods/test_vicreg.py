"""VICReg's loss and gradients against lightly's, its choice against every pair, and a step against a plain loop."""

import pytest
import torch
from lightly.loss import VICRegLoss
from torch import Tensor

from hardviews.errors import InputError
from hardviews.methods.vicreg import VICReg, VICRegEncoding
from hardviews.selection.search import hardest_ids
from tests.methods import by_hand
from tests.methods.tiny import TinyBackbone
from tests.selection.brute_force import every_combination


def method(**weights: float) -> VICReg:
    torch.manual_seed(0)
    return VICReg(TinyBackbone(), VICReg.default_plan(16), dim=12, hidden_dim=24, **weights)


def views(count: int, batch: int = 7) -> list[Tensor]:
    return [torch.rand(batch, 3, 16, 16, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 3.0, 0.5)])
@pytest.mark.parametrize("batch", [7, 20])  # fewer images than dimensions, and more
def test_loss_and_gradients_equal_lightly(batch: int, weights: tuple[float, float, float]) -> None:
    vicreg = method(**dict(zip(("invariance", "variance", "covariance"), weights, strict=True))).double()
    two = views(2, batch)
    ours = vicreg.loss(vicreg(two))
    our_gradients = torch.autograd.grad(ours, list(vicreg.parameters()))
    projection = vicreg(two).projection
    theirs = VICRegLoss(*weights)(projection[0], projection[1])
    their_gradients = torch.autograd.grad(theirs, list(vicreg.parameters()))
    assert abs(ours - theirs).item() < 1e-9
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    """A bias after which everything is centred would get none."""
    vicreg = method().double()
    vicreg.loss(vicreg(views(2))).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in vicreg.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or gradient.abs().max() < 1e-12] == []


def test_the_choice_is_that_of_every_pair() -> None:
    vicreg = method()
    projection = torch.randn(4, 7, 12, dtype=torch.float64)
    pairs = every_combination(vicreg.plan)
    apart = torch.stack([25 * (projection[a] - projection[b]).square().mean(-1) for a, b in pairs])
    costs = vicreg.costs(VICRegEncoding(projection))
    assert torch.equal(hardest_ids(costs, vicreg.plan), pairs[apart.argmax(0)].T)
    for pair, expected in zip(pairs, apart, strict=True):
        torch.testing.assert_close(costs.total(pair[:, None].expand(-1, 7)), expected)


def test_training_adds_terms_of_the_batch_to_what_selection_compares() -> None:
    kept = VICRegEncoding(torch.randn(2, 7, 12, dtype=torch.float64))
    costs = method().costs(kept)
    per_image = costs.total(costs.all_ids()).mean()
    assert method(variance=0.0, covariance=0.0).loss(kept) == per_image
    terms = VICRegLoss(0.0)(*kept.projection)
    assert terms > 0.1
    torch.testing.assert_close(method().loss(kept) - per_image, terms)


def test_of_more_views_the_terms_are_those_of_two_on_average() -> None:
    three = torch.randn(3, 7, 12, dtype=torch.float64)
    loss = VICRegLoss()
    pairs = [loss(three[a], three[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(method().loss(VICRegEncoding(three)), torch.stack(pairs).mean())


def test_a_step_is_that_of_a_plain_loop() -> None:
    criterion = VICRegLoss()
    written = by_hand.by_hand(
        method(), lambda kept: 25 * (kept[0] - kept[1]).square().mean(), lambda kept: criterion(*kept)
    )
    by_hand.assert_the_same(by_hand.by_library(method()), written)


def test_costs_and_loss_stay_float32_under_autocast() -> None:
    vicreg = method()
    encoding = VICRegEncoding(torch.randn(2, 7, 12).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cross, loss = vicreg.costs(encoding).cross, vicreg.loss(encoding)
    exact = VICRegEncoding(encoding.projection.float())
    assert torch.equal(cross, vicreg.costs(exact).cross)
    assert torch.equal(loss, vicreg.loss(exact))
    assert loss.dtype == torch.float32


def test_views_have_bn_statistics_of_their_own() -> None:
    vicreg, (a, b) = method().double(), views(2)
    assert torch.equal(vicreg([a, 5 * b]).projection[0], vicreg([a]).projection[0])


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"method\.invariance 1.0, variance -1 and covariance"):
        method(invariance=1.0, variance=-1)
    with pytest.raises(InputError, match=r"method\.dim must be at least 1, got 0"):
        VICReg(TinyBackbone(), VICReg.default_plan(16), dim=0)
    with pytest.raises(InputError, match="batch has one"):
        method().loss(VICRegEncoding(torch.randn(2, 1, 12)))
