"""Gathers the features that each process computed in process 0."""

from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.evaluation.features import Features
from hardviews.training.distributed.meeting import Meeting

ROWS = 256  # of every process, gathered at once


def gathered(part: Features, source: ImageSource, meeting: Meeting) -> Features:
    """In process 0, the features of all processes, in order of rank; in the others, their own.

    Args:
        part: what ``extract`` made of this process's batches, without tokens; parts may differ in length.
        source: whose features they are.
        meeting: of the processes; all have to call this.

    Raises:
        FailedError: no image can be read, or the first process lacks memory.
    """
    fabric = meeting.fabric
    if fabric.world_size == 1:
        return part
    own = [part.vectors] if part.pixels is None else [part.vectors, part.pixels]
    counts, widths, pixels = _of_all([len(part.rows), own[0].shape[1], sum(one.shape[1] for one in own[1:])], meeting)
    width = max(widths) + max(pixels)
    values, rows = torch.empty(0), torch.empty(0, dtype=torch.int64)
    with meeting.working():
        if not sum(counts):
            raise InputError(f"{source.name}: no image can be read")
        if fabric.is_global_zero:
            values, rows = torch.empty(sum(counts), width), torch.empty(sum(counts), dtype=torch.int64)
    for start in range(0, max(counts), ROWS):
        sent, numbers = torch.zeros(ROWS, width), torch.zeros(ROWS, dtype=torch.int64)
        count = len(part.rows[start : start + ROWS])
        if count:
            sent[:count] = torch.cat([one[start : start + ROWS] for one in own], 1)
            numbers[:count] = part.rows[start : start + ROWS]
        for tensor, whole in ((sent, values), (numbers, rows)):
            received = _to_first(tensor.to(fabric.device), meeting)
            for found, length, before in zip(received, counts, accumulate(counts, initial=0), strict=False):
                place = slice(before + start, before + min(length, start + ROWS))
                whole[place] = found[: max(length - start, 0)].cpu()
    if not fabric.is_global_zero:
        return part
    labels = torch.full((len(rows),), -1) if source.labels is None else source.labels[rows]
    vectors, small = torch.split(values, [max(widths), max(pixels)], 1)
    return Features(vectors, labels, rows, pixels=small if max(pixels) else None)


def _of_all(numbers: list[int], meeting: Meeting) -> list[list[int]]:
    """For every number, its values in all processes."""
    own = torch.tensor(numbers, device=meeting.fabric.device)
    found = [torch.empty_like(own) for _ in range(meeting.fabric.world_size)]
    dist.all_gather(found, own)
    columns: list[list[int]] = torch.stack(found).T.tolist()
    return columns


def _to_first(tensor: Tensor, meeting: Meeting) -> list[Tensor]:
    """In process 0, the tensors of all processes; in the others, an empty list."""
    first = meeting.fabric.is_global_zero
    found = [torch.empty_like(tensor) for _ in range(meeting.fabric.world_size)] if first else []
    dist.gather(tensor, found if first else None)
    return found
