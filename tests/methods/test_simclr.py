"""SimCLR's costs and gradients against lightly's loss and against every pair computed by itself."""

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.simclr import SimCLR, SimCLREncoding
from tests.methods.tiny import TinyBackbone


def method(temperature: float = 0.1) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(TinyBackbone(), SimCLR.default_plan(16), dim=12, hidden_dim=24, temperature=temperature).double()


def views(count: int, batch: int = 7) -> list[Tensor]:
    return [torch.rand(batch, 3, 16, 16, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradients_equal_lightly(temperature: float) -> None:
    simclr, two = method(temperature), views(2)
    ours = simclr.loss(simclr(two))
    our_gradients = torch.autograd.grad(ours, list(simclr.parameters()))
    projection = simclr(two).projection
    theirs = NTXentLoss(temperature=temperature)(projection[0], projection[1])
    their_gradients = torch.autograd.grad(theirs, list(simclr.parameters()))
    assert abs(ours - theirs).item() < 1e-9
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=0)


def nt_xent(projection: Tensor, a: int, b: int, image: int, temperature: float) -> Tensor:
    """Equation 1 of the paper for one image, from view a to view b, over the 2B embeddings of this pair alone."""
    z = F.normalize(projection, dim=-1)
    everything = torch.cat([z[a], z[b]])  # [2B, D]
    similarity = everything @ z[a, image] / temperature
    others = torch.arange(len(everything)) != image
    return -(z[a, image] @ z[b, image]) / temperature + similarity[others].exp().sum().log()


def test_all_pairs_at_once_equal_each_pair_by_itself() -> None:
    simclr = method()
    encoding = simclr(views(4))
    cross = simclr.costs(encoding).cross
    for a in range(4):
        for b in range(4):
            if a != b:
                alone = torch.stack([nt_xent(encoding.projection, a, b, image, 0.1) for image in range(7)])
                torch.testing.assert_close(cross[b, a], alone, atol=1e-9, rtol=0)
                pair = SimCLREncoding(encoding.projection[[a, b]])
                torch.testing.assert_close(simclr.costs(pair).cross[1, 0], alone, atol=1e-9, rtol=0)


def test_loss_of_more_views_is_the_mean_of_lightlys_over_pairs() -> None:
    simclr = method()
    encoding = simclr(views(4))
    pairs = [NTXentLoss(temperature=0.1)(*encoding.projection[[a, b]]) for a in range(4) for b in range(a)]
    torch.testing.assert_close(simclr.loss(encoding), torch.stack(pairs).mean())
    (slot,) = SimCLR.default_plan(16, keep=4).slots
    assert (slot.draw, slot.keep) == (8, 4)


def test_gradients_are_finite_on_identical_images() -> None:
    simclr = method().float()
    loss = simclr.loss(SimCLREncoding(torch.ones(2, 4, 12, requires_grad=True)))
    assert torch.isfinite(loss)


def test_costs_stay_float32_under_autocast() -> None:
    simclr = method().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = simclr([view.float() for view in views(2)])
        inside = simclr.costs(encoding).cross
    assert inside.dtype == torch.float32
    assert torch.equal(inside, simclr.costs(encoding).cross)


def test_both_views_share_bn_statistics() -> None:
    simclr, (a, b) = method(), views(2)
    together = simclr([a, 5 * b]).projection
    alone = simclr([a]).projection
    assert not torch.allclose(together[0], alone[0])
    torch.testing.assert_close(together[0], simclr([5 * b, a]).projection[1])


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"method\.temperature"):
        method(0)
    with pytest.raises(InputError, match=r"plan\.strength"):
        SimCLR.default_plan(32, strength=3)
    with pytest.raises(InputError, match=r"plan\.keep: a pair needs two views, not 1"):
        SimCLR.default_plan(32, keep=1)
