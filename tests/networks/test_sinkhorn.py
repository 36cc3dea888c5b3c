"""Sinkhorn-Knopp against lightly's, and what it promises."""

import pytest
import torch
from lightly.loss.swav_loss import sinkhorn as lightlys

from hardviews.networks.heads import Prototypes
from hardviews.networks.sinkhorn import sinkhorn

VECTORS, PROTOTYPES, DIM = 40, 6, 5


def unit(count: int, seed: int) -> torch.Tensor:
    numbers = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(numbers, dim=1)


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize("at_once", [2**21, 3 * PROTOTYPES], ids=["whole", "three at once"])
def test_codes_equal_lightlys(iterations: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardviews.networks.sinkhorn.LOGITS", {"cpu": at_once})
    vectors, prototypes = unit(VECTORS, 0), Prototypes(unit(PROTOTYPES, 1))
    logits = prototypes.logits(vectors)
    ours = sinkhorn(vectors, prototypes, 0.05, iterations)(logits)
    torch.testing.assert_close(ours, lightlys(logits, iterations, 0.05), rtol=1e-9, atol=1e-12)


def test_prototypes_get_equal_shares() -> None:
    vectors, prototypes = unit(VECTORS, 0), Prototypes(unit(PROTOTYPES, 1))
    codes = sinkhorn(vectors, prototypes, 0.1, 100)(prototypes.logits(vectors))
    torch.testing.assert_close(codes.sum(0), torch.full((PROTOTYPES,), VECTORS / PROTOTYPES, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(1), torch.ones(VECTORS, dtype=torch.float64))


def test_what_has_no_weight_takes_no_part() -> None:
    vectors, prototypes = unit(VECTORS, 0), Prototypes(unit(PROTOTYPES, 1))
    counted = torch.arange(VECTORS) % 3 == 0
    codes = sinkhorn(vectors, prototypes, 0.05, 3, counted)
    torch.testing.assert_close(codes.offsets, sinkhorn(vectors[counted], prototypes, 0.05, 3).offsets)
    nothing = sinkhorn(vectors, prototypes, 0.05, 3, counted & ~counted)
    assert torch.equal(nothing.offsets, torch.zeros(PROTOTYPES, dtype=torch.float64))  # a plain softmax


def test_low_temperatures_do_not_overflow() -> None:
    vectors, prototypes = unit(VECTORS, 0).float(), Prototypes(unit(PROTOTYPES, 1).float())
    codes = sinkhorn(vectors, prototypes, 1e-3, 3)(prototypes.logits(vectors))
    assert not lightlys(prototypes.logits(vectors), 3, 1e-3).isfinite().all()
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(VECTORS))
