"""Retrieval: how early images of a query's class come when all others are sorted by likeness."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench

SIMILARITIES_AT_ONCE = 1 << 24


def retrieval(bench: Bench) -> Iterator[tuple[str, float]]:
    """Mean average precision of the training images, sorted by cosine similarity, for every test image; a test image
    whose class no training image has is left out.

    Yields:
        ``retrieval_map``.
    """
    gallery, queries = bench.labelled
    precisions = average_precisions(gallery.vectors, gallery.labels, queries.vectors, queries.labels)
    if precisions.isnan().all():
        raise InputError("retrieval: no training image is of the class of any test image")
    yield "retrieval_map", precisions.nanmean().item()


def average_precisions(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, labels: Tensor) -> Tensor:
    """Of every query, the mean over the gallery's images of its label of the precision down to that image.

    Args:
        gallery: ``[M, D]``, in any scale; ``gallery_labels``: ``[M]``.
        queries: ``[N, D]``; ``labels``: ``[N]``.

    Returns:
        float64 ``[N]``, nan where no image of the gallery has the label.
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
