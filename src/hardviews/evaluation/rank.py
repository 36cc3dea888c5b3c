"""Effective rank of an embedding, which falls when it collapses: Garrido et al., "RankMe", ICML 2023 (arXiv
2210.02885)."""

import torch
from torch import Tensor

from hardviews.errors import RunError

ROWS = 10_000  # vectors that are looked at: more change the figure little and take long


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values (equation 1): 1 for vectors that are all alike,
    at most D.

    Args:
        vectors: ``[N, D]``, one per image.

    Raises:
        RunError: some are not finite; the network has diverged.
    """
    if not vectors.isfinite().all():
        raise RunError("embedding: features are not finite, so training has diverged; a lower --lr may help")
    rows = torch.linspace(0, len(vectors) - 1, min(len(vectors), ROWS)).long()  # of all classes, in whatever order
    spread = torch.linalg.svdvals(vectors[rows].double())
    share = spread / spread.sum().clamp(min=1e-12)
    return float(torch.special.entr(share).sum().exp())
