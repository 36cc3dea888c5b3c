"""Effective rank of an embedding; a fall signals collapse: Garrido et al., "RankMe", ICML 2023 (arXiv 2210.02885)."""

import torch
from torch import Tensor

from hardviews.errors import RunError

ROWS = 10_000  # maximum number of vectors used: more are slow and change the figure little


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values (equation 1): 1 if all vectors are alike, at
    most D.

    Args:
        vectors: ``[N, D]``, one per image.

    Raises:
        RunError: some vectors are not finite, so training has diverged.
    """
    if not vectors.isfinite().all():
        raise RunError("embedding: features are not finite, so training has diverged; a lower --lr may help")
    rows = torch.linspace(0, len(vectors) - 1, min(len(vectors), ROWS)).long()  # evenly, to cover all classes
    spread = torch.linalg.svdvals(vectors[rows].double())
    share = spread / spread.sum().clamp(min=1e-12)
    return float(torch.special.entr(share).sum().exp())
