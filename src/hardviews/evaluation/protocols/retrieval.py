"""Retrieval: how early images of a query's class appear when all others are ranked by similarity."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench

SIMILARITIES_AT_ONCE = 1 << 24


def retrieval(bench: Bench) -> Iterator[tuple[str, float]]:
    """Mean average precision over test images of the training images ranked by cosine similarity. Test images whose
    class has no training image are left out.

    Yields:
        ``retrieval_map``.
    """
    gallery, queries = bench.labelled
    precisions = average_precisions(gallery.vectors, gallery.labels, queries.vectors, queries.labels)
    if precisions.isnan().all():
        raise InputError("retrieval: no test image shares its class with a training image")
    yield "retrieval_map", precisions.nanmean().item()


def average_precisions(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, labels: Tensor) -> Tensor:
    """Average precision of every query: the mean precision at each gallery image with its label.

    Args:
        gallery: ``[M, D]``, of any length; ``gallery_labels``: ``[M]``.
        queries: ``[N, D]``; ``labels``: ``[N]``.

    Returns:
        float64 ``[N]``, nan if no gallery image has the label.
    """
    gallery = F.normalize(gallery, dim=1)
    places = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    found = []
    rows = max(1, SIMILARITIES_AT_ONCE // len(gallery))
    for some, wanted in zip(torch.split(queries, rows), torch.split(labels, rows), strict=True):
        order = (F.normalize(some, dim=1) @ gallery.T).argsort(dim=1, descending=True, stable=True)
        right = gallery_labels[order] == wanted[:, None]
        precision = right.cumsum(1) / places
        found.append((precision * right).sum(1) / right.sum(1))
    return torch.cat(found)
