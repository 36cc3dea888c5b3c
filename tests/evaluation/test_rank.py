"""The effective rank where it is known."""

import pytest
import torch

from hardviews.errors import RunError
from hardviews.evaluation.rank import effective_rank


def test_rank_of_known_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 16, generator=generator)).Q
    assert effective_rank(basis) == pytest.approx(16, rel=1e-4)  # 16 equal singular values
    assert effective_rank(basis * torch.tensor([1.0] * 4 + [0.0] * 12)) == pytest.approx(4, rel=1e-4)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, rel=1e-4)
    two = torch.tensor([3.0, 1.0])
    share = two / two.sum()
    assert effective_rank(basis[:, :2] * two) == pytest.approx(float((-share * share.log()).sum().exp()), rel=1e-4)


def test_images_of_the_same_order_do_not_change_it() -> None:
    vectors = torch.randn(300, 12, generator=torch.Generator().manual_seed(1))
    assert effective_rank(vectors.flip(0)) == pytest.approx(effective_rank(vectors), rel=1e-6)
    assert 6 < effective_rank(vectors) <= 12


def test_a_diverged_network_is_named() -> None:
    vectors = torch.rand(8, 4)
    vectors[3, 1] = torch.inf
    with pytest.raises(RunError, match="diverged"):
        effective_rank(vectors)
