"""Weighted k-nearest-neighbour accuracy: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018 (arXiv 1805.01978), section 3.4; k 20 and T 0.07 as in DINO."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
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


def knn(bench: Bench, k: int | list[int] = 20, temperature: float = 0.07) -> Iterator[tuple[str, float]]:
    """Test accuracy by the nearest neighbours among the training images.

    Args:
        k: neighbours that vote, one number or several (10,20,200).
        temperature: of the votes.

    Yields:
        ``("knn_top1", accuracy)`` for the first k, ``("knn_top1_k200", ...)`` for further ones.

    Raises:
        InputError: k or temperature are not positive.
    """
    ks = k if isinstance(k, list) else [k]
    check(ks, temperature)
    bank, queries = bench.labelled
    for place, number in enumerate(ks):
        predictions = knn_predictions(bank, queries, number, temperature)
        metric, value = bench.score(predictions, queries.labels)
        yield f"knn_{metric}" + (f"_k{number}" if place else ""), value


def knn_accuracy(bank: Features, queries: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 accuracy of the queries, 0..1, by their nearest neighbours in the bank."""
    check([k], temperature)
    return (knn_predictions(bank, queries, k, temperature) == queries.labels).double().mean().item()


def knn_predictions(bank: Features, queries: Features, k: int, temperature: float) -> Tensor:
    """The label with most votes for every query, int64 ``[N]``; labels may be any numbers."""
    values, labels = bank.labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    votes = knn_votes(bank.vectors, labels, queries.vectors, len(values), k, temperature)
    predictions: Tensor = values[votes.argmax(1)]
    return predictions


def check(ks: Sequence[int], temperature: float) -> None:
    if min(ks, default=0) < 1 or temperature <= 0:
        raise InputError(f"knn: k and temperature must be positive, got {list(ks)} and {temperature}")
