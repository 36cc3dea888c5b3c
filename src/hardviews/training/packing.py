"""Packs many tensors into one buffer, so that the numbers of kernels and messages do not grow with theirs."""

from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch import Tensor


def by_device_and_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Groups tensors by device and dtype, so that each group fits one buffer."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for x in tensors:
        groups.setdefault((x.device, x.dtype), []).append(x)
    return list(groups.values())


@torch.no_grad()
def packed(tensors: list[Tensor]) -> Tensor:
    """Concatenates the numbers of tensors of one device and dtype, each in its order in memory."""
    buffer = tensors[0].new_empty(sum(x.numel() for x in tensors))
    torch._foreach_copy_(parts(buffer, tensors), tensors)
    return buffer


@torch.no_grad()
def unpack(buffer: Tensor, tensors: list[Tensor]) -> None:
    """Copies a buffer from ``packed`` back into tensors with the same layout."""
    torch._foreach_copy_(tensors, parts(buffer, tensors))


@torch.no_grad()
def exchange(tensors: Iterable[Tensor], send: Callable[[Tensor], object]) -> None:
    """Sends tensors through a collective that changes a buffer in place.

    Every process passes tensors of the same shapes and strides. Gradients have those of their parameters.
    """
    for group in by_device_and_dtype(tensors):
        buffer = packed(group)
        send(buffer)
        unpack(buffer, group)


def parts(buffer: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Views of a packed buffer with the tensors' layouts; contiguous for tensors with gaps."""
    ends = list(accumulate(x.numel() for x in tensors))
    return [
        buffer.as_strided(x.shape, x.stride(), end - x.numel())
        if _is_dense(x)
        else buffer[end - x.numel() : end].view(x.shape)
        for x, end in zip(tensors, ends, strict=True)
    ]


def _is_dense(x: Tensor) -> bool:
    """Whether a tensor's elements fill a contiguous range of memory, each once."""
    return 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) == x.numel()
