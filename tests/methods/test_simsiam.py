"""SimSiam's costs and gradients against lightly's loss."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor

from hardviews.errors import InputError
from hardviews.methods.simsiam import SimSiam, SimSiamEncoding
from tests.methods.tiny import TinyBackbone


def method() -> SimSiam:
    torch.manual_seed(0)
    return SimSiam(TinyBackbone(), SimSiam.default_plan(16), dim=24, predictor_dim=8).double()


def lightly_loss(encoding: SimSiamEncoding, a: int, b: int) -> Tensor:
    loss = NegativeCosineSimilarity()
    p, z = encoding
    total: Tensor = 0.5 * (loss(p[a], z[b]) + loss(p[b], z[a]))
    return total


def test_loss_and_gradients_equal_lightly() -> None:
    simsiam, views = method(), [torch.rand(6, 3, 16, 16, dtype=torch.float64) for _ in range(2)]
    ours = simsiam.loss(simsiam(views))
    our_gradients = torch.autograd.grad(ours, list(simsiam.parameters()))
    theirs = lightly_loss(simsiam(views), 0, 1)
    their_gradients = torch.autograd.grad(theirs, list(simsiam.parameters()))
    assert abs(ours - theirs).item() < 1e-9
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=0)


def test_every_pair_costs_what_lightly_says() -> None:
    encoding = method()([torch.rand(6, 3, 16, 16, dtype=torch.float64) for _ in range(4)])
    costs = method().costs(encoding)
    for a in range(4):
        for b in range(a + 1, 4):
            ids = torch.tensor([a, b])[:, None].expand(2, 6)
            for image in range(6):
                one = SimSiamEncoding(*(part[:, image : image + 1] for part in encoding))
                assert abs(costs.total(ids)[image] - lightly_loss(one, a, b)).item() < 1e-9


def test_four_kept_views_predict_the_mean_of_the_others_as_in_fastsiam() -> None:
    """Its loss (Pototzky et al., 2022) with targets of length 1 before they are averaged, and not after."""
    simsiam = method()
    p, z = encoding = simsiam([torch.rand(6, 3, 16, 16, dtype=torch.float64) for _ in range(4)])
    p, z = p / p.norm(dim=-1, keepdim=True), z / z.norm(dim=-1, keepdim=True)
    terms = [-(p[v] * (z.sum(0) - z[v]) / 3).sum(-1).mean() for v in range(4)]
    torch.testing.assert_close(simsiam.loss(encoding), torch.stack(terms).mean())
    (slot,) = SimSiam.default_plan(16, keep=4).slots
    assert (slot.draw, slot.keep) == (8, 4)
    with pytest.raises(InputError, match=r"plan\.keep: a pair needs two views, not 0"):
        SimSiam.default_plan(16, keep=0)


def test_no_gradient_through_the_projection() -> None:
    assert not method()([torch.rand(4, 3, 16, 16, dtype=torch.float64)] * 2).projection.requires_grad


def test_bn_statistics_are_those_of_one_view() -> None:
    simsiam = method()
    views = [torch.rand(6, 3, 16, 16, dtype=torch.float64) * scale for scale in (1, 5)]
    both = simsiam(views)
    for v, view in enumerate(views):
        alone = simsiam([view])
        torch.testing.assert_close(both.prediction[v], alone.prediction[0])


def test_costs_stay_float32_under_autocast() -> None:
    simsiam = method().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = simsiam([torch.rand(6, 3, 16, 16) for _ in range(2)])
        inside = simsiam.costs(encoding).cross
    assert inside.dtype == torch.float32
    assert torch.equal(inside, simsiam.costs(encoding).cross)


def test_shapes_follow_the_paper() -> None:
    simsiam = SimSiam(TinyBackbone(), SimSiam.default_plan(32))
    linear = [m for m in simsiam.projector if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(8, 2048), (2048, 2048), (2048, 2048)]
    last = simsiam.projector[-1]
    assert isinstance(last, torch.nn.BatchNorm1d)
    assert not last.affine
    assert [(m.in_features, m.out_features) for m in simsiam.predictor if isinstance(m, torch.nn.Linear)] == [
        (2048, 512),
        (512, 2048),
    ]
