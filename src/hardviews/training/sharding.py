"""Backbones whose weights lie shared out among processes (FSDP2), for those too large to lie whole in each."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardviews.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SMALLEST = 1 / 200  # of a backbone's parameters: what has fewer is not worth gathering by itself


def shard_backbones(method: nn.Module, mesh: "DeviceMesh") -> None:
    """Shares the blocks of every backbone of a method out among processes, in place: student's and teacher's alike.

    The rest stays whole in every process: heads and prototypes, which costs read between forwards, and what lies around
    the blocks, which methods that read tokens call by other ways than ``forward``. Its gradients are
    ``synchronise``'s matter.

    Args:
        method: on any device; its parameters are the same on all processes, and are others afterwards.
        mesh: of one dimension, over all processes.

    Raises:
        InputError: a backbone has no blocks.
    """
    from torch.distributed.fsdp import fully_shard

    for name, backbone in list(method.named_modules()):
        if name.rpartition(".")[2] != "backbone":
            continue
        backbone.to(memory_format=torch.contiguous_format)  # the only one that FSDP takes
        least = SMALLEST * _numel(backbone)
        # The inner ones first, as fully_shard wants it.
        containers = [m for m in backbone.modules() if isinstance(m, nn.Sequential | nn.ModuleList)][::-1]
        sharded = 0
        for container in containers:
            blocks = [m for m in container if next(m.children(), None) is not None and _numel(m) > least]
            for block in blocks:
                fully_shard(block, mesh=mesh)
            if blocks and isinstance(container, nn.Sequential):  # its forward gathers the next block beside this one
                fully_shard(container, mesh=mesh, reshard_after_forward=False)
            sharded += len(blocks)
        if not sharded:
            raise InputError(f"strategy: fsdp finds no blocks to share out in {type(backbone).__name__}; give ddp")


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")  # DTensor's; its module is slow to import


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, without gradient; all of it where it is not shared out."""
    part: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def synchronise(network: nn.Module) -> None:
    """Of what every process has whole: averages the gradients, and takes the first process's buffers, as DDP does."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None and not is_sharded(p)]
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        _put_back(flat / dist.get_world_size(), gradients)
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(flat, 0)
        _put_back(flat, buffers)


def _put_back(flat: Tensor, tensors: list[Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])


class Whole:
    """A copy of a network that is about to be shared out, to be called in one process alone.

    Args:
        network: not shared out yet.
    """

    def __init__(self, network: nn.Module) -> None:
        self._copy = deepcopy(network).cpu()

    def of(self, network: nn.Module) -> nn.Module:
        """The copy, with the weights that the network has by now. All processes have to ask for it."""
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        whole = {name: (tensor.full_tensor() if is_sharded(tensor) else tensor).cpu() for name, tensor in state.items()}
        self._copy.load_state_dict(whole)
        return self._copy
