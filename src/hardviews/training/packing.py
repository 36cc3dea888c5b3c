"""Many tensors in one buffer, so that the number of kernels and of messages does not grow with theirs."""

from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch import Tensor


def alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors by device and dtype, which one buffer can hold."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for x in tensors:
        groups.setdefault((x.device, x.dtype), []).append(x)
    return list(groups.values())


@torch.no_grad()
def packed(tensors: list[Tensor]) -> Tensor:
    """The numbers of tensors of one device and dtype, one after the other, each in its order in memory."""
    buffer = tensors[0].new_empty(sum(x.numel() for x in tensors))
    torch._foreach_copy_(parts(buffer, tensors), tensors)
    return buffer


@torch.no_grad()
def put_back(buffer: Tensor, tensors: list[Tensor]) -> None:
    """Gives tensors the numbers that ``packed`` made of them, or of tensors laid out alike."""
    torch._foreach_copy_(tensors, parts(buffer, tensors))


@torch.no_grad()
def exchange(tensors: Iterable[Tensor], send: Callable[[Tensor], object]) -> None:
    """Sends tensors through a collective that changes a buffer in place.

    Every process gives tensors of the same shapes and strides. Gradients have those of their parameters.
    """
    for group in alike(tensors):
        buffer = packed(group)
        send(buffer)
        put_back(buffer, group)


def parts(buffer: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Views of a packed buffer, laid out as the tensors are; those of tensors with gaps are contiguous."""
    ends = list(accumulate(x.numel() for x in tensors))
    return [
        buffer.as_strided(x.shape, x.stride(), end - x.numel())
        if _is_dense(x)
        else buffer[end - x.numel() : end].view(x.shape)
        for x, end in zip(tensors, ends, strict=True)
    ]


def _is_dense(x: Tensor) -> bool:
    """Whether the numbers of a tensor fill its stretch of memory, each once."""
    return 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) == x.numel()
