"""Splits of labelled data: held-out parts, and subsets with few labels."""

import torch
from torch import Tensor


def held_out(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the rest and of a random tenth, each ascending; for data without a test set."""
    order = torch.randperm(count, generator=generator)
    tenth = max(1, count // 10)
    return order[tenth:].sort().values, order[:tenth].sort().values


def sample(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Ascending rows of a random sample of ``count``, in which every class has its share to within one image.

    Args:
        labels: int64 ``[N]``.
        count: 0, or N and more, selects all.
    """
    if not 0 < count < len(labels):
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels[order].argsort(stable=True)]  # sorted by class, random within a class
    return by_class[torch.arange(count) * len(labels) // count].sort().values


def stratified(labels: Tensor, part: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of a random fraction of every class, and of the rest, each ascending.

    Every class has at least one image in the part and, if it has two or more and the part is not all, one in the rest.
    With the same generator, a smaller part is a subset of a larger one.

    Args:
        labels: int64 ``[N]``.
        part: above 0, at most 1.
    """
    order = torch.randperm(len(labels), generator=generator)
    _, label, counts = labels.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    wanted = (counts * part).round().long().clamp(min=1)
    if part < 1:
        wanted = torch.where(counts > 1, wanted.minimum(counts - 1), wanted)
    by_class = order[label[order].argsort(stable=True)]  # sorted by class, random within a class
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[label[by_class]]
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[by_class[place < wanted[label[by_class]]]] = True
    return inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
