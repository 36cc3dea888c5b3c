"""Shards the weights of large backbones among processes (FSDP2)."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.packing import exchange

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SMALLEST = 1 / 200  # of a backbone's parameters: smaller blocks are not worth a gather of their own


def shard_backbones(method: nn.Module, mesh: "DeviceMesh") -> None:
    """Shards the blocks of every backbone of a method among processes, in place: the student's and the teacher's.

    Everything else stays unsharded: heads and prototypes, which costs read between forwards, and the layers around the
    blocks, which methods that read tokens do not call through ``forward``. ``synchronise`` averages their gradients.

    Args:
        method: on any device, with the same parameters on all processes; its parameter objects are replaced.
        mesh: one-dimensional, over all processes.
    """
    from torch.distributed.fsdp import fully_shard

    for backbone in _backbones(method):
        backbone.to(memory_format=torch.contiguous_format)  # the only format that FSDP takes
        for container, blocks in _blocks(backbone):
            for block in blocks:
                fully_shard(block, mesh=mesh)
            if isinstance(container, nn.Sequential):  # its forward gathers the next block while this one runs
                fully_shard(container, mesh=mesh, reshard_after_forward=False)


def check_blocks(method: nn.Module) -> None:
    """Raises InputError if a backbone has no blocks to shard."""
    for backbone in _backbones(method):
        if not _blocks(backbone):
            raise InputError(f"strategy: fsdp finds no blocks to shard in {type(backbone).__name__}; give ddp")


def _backbones(method: nn.Module) -> list[nn.Module]:
    return [module for name, module in method.named_modules() if name.rpartition(".")[2] == "backbone"]


def _blocks(backbone: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Containers with their blocks, inner ones first, as fully_shard requires."""
    least = SMALLEST * _numel(backbone)
    containers = [m for m in backbone.modules() if isinstance(m, nn.Sequential | nn.ModuleList)][::-1]
    found = [(c, [m for m in c if next(m.children(), None) is not None and _numel(m) > least]) for c in containers]
    return [(container, blocks) for container, blocks in found if blocks]


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")  # a DTensor, whose module is slow to import


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, without gradient; the entire tensor if it is not sharded."""
    part: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def synchronise(network: nn.Module) -> None:
    """For unsharded parameters and buffers: averages gradients and takes the first process's buffers, as DDP does."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None and not is_sharded(p)]
    exchange(gradients, lambda flat: (dist.all_reduce(flat), flat.div_(dist.get_world_size())))
    broadcast_buffers(network)


def broadcast_buffers(network: nn.Module) -> None:
    """Takes the first process's buffers, such as running means, since every process updates them with its own
    images."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    exchange(buffers, lambda flat: dist.broadcast(flat, 0))


class UnshardedCopy:
    """Makes unsharded copies of a network that will be sharded, one in every process.

    Measurements call the copy. All processes would have to call a sharded network equally often, so one that ran out of
    memory would leave the others waiting. A copy takes no memory until it is needed.

    Args:
        network: not yet sharded.
    """

    def __init__(self, network: nn.Module) -> None:
        self._empty = deepcopy(network).to("meta")
        saved = network.state_dict().keys()
        self._unsaved = {name: buffer.clone() for name, buffer in network.named_buffers() if name not in saved}

    def of(self, network: nn.Module, meeting: Meeting) -> nn.Module:
        """A copy with the network's current weights, on the run's device. All processes must call this.

        Raises:
            FailedError: a process lacks the memory; all processes learn this before any weight is sent.
        """
        with meeting.working():
            copy = deepcopy(self._empty).to_empty(device=meeting.fabric.device)
        there = copy.state_dict() | dict(copy.named_buffers())
        for name, tensor in (network.state_dict() | self._unsaved).items():
            there[name].copy_(tensor.full_tensor() if is_sharded(tensor) else tensor)
        return copy
