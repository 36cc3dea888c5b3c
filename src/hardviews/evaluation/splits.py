"""Parts of labelled data: what is held out, and what is trained on where labels are few."""

import torch
from torch import Tensor


def held_out(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the rest and of a random tenth, each ascending: for data without a test set."""
    order = torch.randperm(count, generator=generator)
    tenth = max(1, count // 10)
    return order[tenth:].sort().values, order[:tenth].sort().values


def stratified(labels: Tensor, part: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of a random part of every class, and of the rest, each ascending.

    Of every class at least one image is in the part, and where it has two or more and the part is not all, one in the
    rest. With the same generator a smaller part lies within a larger one.

    Args:
        labels: int64 ``[N]``.
        part: above 0, at most 1.
    """
    order = torch.randperm(len(labels), generator=generator)
    inside = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        rows = order[labels[order] == label]
        count = max(1, round(part * len(rows)))
        if part < 1 and len(rows) > 1:
            count = min(count, len(rows) - 1)
        inside[rows[:count]] = True
    return inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
