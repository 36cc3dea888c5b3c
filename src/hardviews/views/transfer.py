"""Copies several small tensors to a device at once."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Copies tensors to a device. From the CPU to a GPU they travel in one pinned copy that nothing waits for.

    Args:
        tensors: of any shapes, strides and dtypes, including expanded ones, which can't be pinned themselves.
        device: any.
    """
    device = torch.device(device)
    if device.type != "cuda" or any(x.is_cuda for x in tensors):
        # A copy to the CPU must wait, or the numbers would be read before they arrive.
        return [x.to(device, non_blocking=device.type == "cuda") for x in tensors]
    # Largest items first, so that each tensor starts at a multiple of its item size.
    order = sorted(range(len(tensors)), key=lambda k: -tensors[k].dtype.itemsize)
    flat = [tensors[k].contiguous().view(-1).view(torch.uint8) for k in order]
    there = torch.split(torch.cat(flat).pin_memory().to(device, non_blocking=True), [len(x) for x in flat])
    moved = {k: x.view(tensors[k].dtype).view(tensors[k].shape) for k, x in zip(order, there, strict=True)}
    return [moved[k] for k in range(len(tensors))]
