"""Weighted k-nearest-neighbour accuracy: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018 (arXiv 1805.01978), section 3.4; k 20 and T 0.07 as in DINO."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.features import Features

# Similarities held at once: queries are taken in parts so that memory does not grow with the product of the set sizes.
SIMILARITIES_AT_ONCE = 1 << 24


def knn_votes(bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """The votes for every class, ``[N, classes]``: exp(cosine / T) of the k nearest of the bank, summed by label.

    Args:
        bank: ``[M, D]``, in any scale; ``bank_labels``: int64 ``[M]``.
        queries: ``[N, D]``.
        k: neighbours; M where that is fewer.
        temperature: T.
    """
    bank = F.normalize(bank, dim=1)
    votes = queries.new_zeros(len(queries), classes)
    rows = max(1, SIMILARITIES_AT_ONCE // len(bank))
    for start in range(0, len(queries), rows):
        similarity = F.normalize(queries[start : start + rows], dim=1) @ bank.T
        nearest, ids = similarity.topk(min(k, len(bank)), dim=1)
        # Weights relative to the nearest one: the same votes up to a factor, without overflow at small temperatures.
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes[start : start + rows].scatter_add_(1, bank_labels[ids], weight)
    return votes


def knn(
    bank: Features, queries: Features, ks: Sequence[int] = (20,), temperature: float = 0.07
) -> Iterator[tuple[str, float]]:
    """Top-1 accuracy of the queries, 0..1, by their nearest neighbours in the bank.

    Yields:
        ``("knn_top1", accuracy)`` for the first k, ``("knn_top1_k200", ...)`` for further ones.

    Raises:
        InputError: k or temperature are not positive.
    """
    if min(ks, default=0) < 1 or temperature <= 0:
        raise InputError(f"knn: k and temperature must be positive, got {list(ks)} and {temperature}")
    if not len(bank.labels) or not len(queries.labels):
        raise InputError("knn: needs at least one image to vote and one to classify")
    # Labels may be any numbers; votes are counted for those that occur.
    values, labels = torch.cat([bank.labels, queries.labels]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    bank_labels, query_labels = labels.split([len(bank.labels), len(queries.labels)])
    for place, k in enumerate(ks):
        votes = knn_votes(bank.vectors, bank_labels, queries.vectors, len(values), k, temperature)
        accuracy = (votes.argmax(1) == query_labels).float().mean().item()
        yield ("knn_top1" if place == 0 else f"knn_top1_k{k}"), accuracy


def held_out(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of a bank and of queries, for labelled data without a test set: a random tenth is held out."""
    order = torch.randperm(count, generator=generator)
    queries = max(1, count // 10)
    return order[queries:].sort().values, order[:queries].sort().values
