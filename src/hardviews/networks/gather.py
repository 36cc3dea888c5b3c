"""Embeddings of all processes beside each other, differentiable."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def place() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums every process's gradients for this process's part.

    Since DDP averages the losses of W processes, this gives the gradient of the global loss. Without the sum, as in
    ``torch.distributed.all_gather`` with the local part put back, the gradient through the negatives is 1/W of that.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def gather(part: Tensor) -> Tensor:
    """Gathers ``[V, B, D]`` of every process along B in order of rank: ``[V, W·B, D]``, differentiable."""
    if place()[1] == 1:
        return part
    gathered: Tensor = _Gather.apply(part)
    return torch.cat(gathered.unbind(), dim=1)
