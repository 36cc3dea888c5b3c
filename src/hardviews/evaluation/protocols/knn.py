"""Weighted k-nearest-neighbour accuracy: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018 (arXiv 1805.01978), section 3.4; k 20 and T 0.07 as in DINO."""

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Features
from hardviews.wording import several

log = logging.getLogger(__name__)
CPU = torch.device("cpu")

# Maximum queries and bank images compared at once: neither set is ever on the device in full.
ROWS = 1 << 12
K = 20  # as in DINO


def knn(bench: Bench, k: int | list[int] = K, temperature: float = 0.07) -> Iterator[tuple[str, float]]:
    """Test accuracy by the nearest neighbours among all training images.

    Args:
        k: number of neighbours that vote, one number or several (10,20,200); all vote if there are fewer.
        temperature: of the votes.

    Yields:
        ``("knn_top1", accuracy)`` for 20 neighbours, ``("knn_top1_k200", ...)`` for other numbers, each once.

    Raises:
        InputError: k or temperature is not positive.
    """
    ks = k if isinstance(k, list) else [k]
    check(ks, temperature)
    bank, queries = bench.labelled
    small = [number for number in ks if voters(number, bank) < number]
    if small:
        voting = several(len(bank.rows), "training image votes", "training images vote")
        log.warning("knn: only %s, fewer than k %s", voting, ", ".join(map(str, small)))
    ks = list(dict.fromkeys(voters(number, bank) for number in ks))
    for number, predictions in zip(ks, knn_predictions(bank, queries, ks, temperature, bench.device), strict=True):
        metric, value = bench.score(predictions, queries.labels)
        yield f"knn_{metric}" + ("" if number == K else f"_k{number}"), value


def voters(k: int, bank: Features, leave_one_out: bool = False) -> int:
    """How many neighbours vote if k are requested; the figure is named by this number.

    Of an image that is left out, no more vote than a class has others on average: if all voted, its own class, which
    has one less, would lose.
    """
    if leave_one_out:
        k = min(k, max(len(bank.rows) // len(bank.labels.unique()) - 1, 1))  # type: ignore[no-untyped-call]
    return min(k, len(bank.rows))


def knn_accuracy(
    bank: Features, queries: Features, k: int = K, temperature: float = 0.07, device: torch.device = CPU,
    on_part: Callable[[], None] | None = None, leave_one_out: bool = False,
) -> float:  # fmt: skip
    """Top-1 accuracy of the queries, 0..1, by their nearest neighbours in the bank, computed on ``device``.

    Args:
        on_part: called after every few thousand queries.
        leave_one_out: ``queries`` are the bank, and no image votes for itself.
    """
    check([k], temperature)
    k = voters(k, bank, leave_one_out)
    (predictions,) = knn_predictions(bank, queries, [k], temperature, device, on_part, leave_one_out)
    return (predictions == queries.labels).double().mean().item()


def knn_predictions(
    bank: Features, queries: Features, ks: Sequence[int], temperature: float, device: torch.device = CPU,
    on_part: Callable[[], None] | None = None, leave_one_out: bool = False,
) -> list[Tensor]:  # fmt: skip
    """The label with most votes for every query, int64 ``[N]``, for every k; labels may be any numbers."""
    values, labels = bank.labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    votes = knn_votes(
        bank.vectors, labels, queries.vectors, len(values), ks, temperature, device, on_part, leave_one_out
    )
    return [values[some.argmax(1)] for some in votes]


def knn_votes(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    classes: int,
    ks: Sequence[int],
    temperature: float,
    device: torch.device = CPU,
    on_part: Callable[[], None] | None = None,
    leave_one_out: bool = False,
) -> Tensor:
    """The votes for every class, ``[len(ks), N, classes]``: exp(cosine / T) of the k nearest bank images, summed by
    label.

    Args:
        bank: ``[M, D]``, of any length; ``bank_labels``: int64 ``[M]``.
        queries: ``[N, D]``, of any length.
        ks: numbers of neighbours, at most M each, or M - 1 with ``leave_one_out``.
        temperature: T.
        device: compares them here, some thousand of each at a time.
        on_part: called after every few thousand queries.
        leave_one_out: query i is bank image i, which does not vote for itself.
    """
    votes = torch.zeros(len(ks), len(queries), classes)
    for start in range(0, len(queries), ROWS):
        own = start if leave_one_out else None
        nearest, ids = _nearest(bank, queries[start : start + ROWS].to(device), max(ks), own)
        # Weights relative to the nearest: the same votes up to a factor, and no overflow at small temperatures.
        weight = ((nearest - nearest[:, :1]) / temperature).exp().cpu()
        labels = bank_labels[ids.cpu()]
        for k, some in zip(ks, votes, strict=True):
            some[start : start + ROWS].scatter_add_(1, labels[:, :k], weight[:, :k])
        if on_part:
            on_part()
    return votes


def _nearest(bank: Tensor, queries: Tensor, k: int, own: int | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and bank indices of the k nearest, ``[N, min(k, M)]`` each, on the queries' device. With ``own``, query i
    is bank image ``own + i``, which is further from itself than all others."""
    queries = F.normalize(queries, dim=1)
    nearest = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first in range(0, len(bank), ROWS):
        part = F.normalize(bank[first : first + ROWS].to(queries.device), dim=1)
        cosines = queries @ part.T
        if own is not None:
            cosines.diagonal(own - first).fill_(-torch.inf)
        found, places = cosines.topk(min(k, len(part)), dim=1)
        ids = torch.cat([ids, places + first], 1)
        nearest, order = torch.cat([nearest, found], 1).topk(min(k, ids.shape[1]), dim=1)
        ids = ids.gather(1, order)
    return nearest, ids


def check(ks: Sequence[int], temperature: float) -> None:
    if min(ks, default=0) < 1 or temperature <= 0:
        raise InputError(f"knn: k and temperature must be positive, got {list(ks)} and {temperature}")
