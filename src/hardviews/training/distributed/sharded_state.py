"""The sharded part of a checkpoint: every process writes its own shard and reads it back.

``torch.distributed.checkpoint.state_dict`` does not fit. To read an optimizer before its first step, it makes a step,
which changes the next one. Its states do not follow the memory layout of their parameters. It takes an unsharded
network, which every process would have to hold in full, whereas this module unshards one tensor at a time.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hardviews.training.distributed.sharding import is_sharded, local


def named_state(network: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """An optimizer's state by parameter name, since parameter numbers depend on the groups."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {names[parameter]: dict(kept) for parameter, kept in optimizer.state.items()}


def load_named_state(network: nn.Module, optimizer: Optimizer, state: Mapping[str, Mapping[str, Any]]) -> None:
    names = {parameter: name for name, parameter in network.named_parameters()}
    now = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in now["param_groups"] for number in group["params"]]
    kept: dict[int, dict[str, Any]] = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        if names[parameter] in state:
            kept[number] = {key: placed(value, parameter) for key, value in state[names[parameter]].items()}
    optimizer.load_state_dict({**now, "state": kept})


def load_weights(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads parameters and buffers, saved by any number of processes, into a network with any sharding."""
    now = network.state_dict()
    network.load_state_dict({name: placed(value, now[name]) if name in now else value for name, value in state.items()})


def misfit(saved: Mapping[str, Any], network: nn.Module) -> str:
    """The first tensor of a network that has another shape than the saved one, in words; empty if all fit.

    Args:
        saved: by name, a tensor, its shards, or its shape alone.
        network: takes them.
    """
    theirs, ours = ({name: shape_of(value) for name, value in one.items()} for one in (saved, network.state_dict()))
    for name in dict.fromkeys([*ours, *theirs]):
        there, here = theirs.get(name), ours.get(name)
        if there != here:
            words = ["missing" if shape is None else str(list(shape)) for shape in (there, here)]
            return f"{name} is {words[0]} there and {words[1]} here"
    return ""


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor, also of a list of its shards along the first dimension; of a shape, itself."""
    if isinstance(value, list):
        return (sum(len(part) for part in value), *value[0].shape[1:])
    return value if isinstance(value, tuple) else tuple(getattr(value, "shape", ()))  # some modules save other things


def own_part(state: Mapping[str, Tensor], all_of_it: bool) -> dict[str, Any]:
    """The part of a state (named tensors or numbers) that this process writes.

    Args:
        state: of a network, or of a parameter in an optimizer.
        all_of_it: include what all processes have in common.
    """
    return {
        name: local(value) if isinstance(value, Tensor) else value
        for name, value in state.items()
        if all_of_it or (isinstance(value, Tensor) and is_sharded(value))
    }


def unsharded(value: Any) -> Any:
    """Concatenates a tensor's shards; returns anything else unchanged."""
    return torch.cat(value) if isinstance(value, list) else value


def placed(value: Any, like: Tensor) -> Any:
    """A loaded value; if it has the shape of ``like``, it gets the same sharding and memory layout, which fused
    optimizers rely on."""
    value = unsharded(value)
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if not is_sharded(like):
        return _laid_out(value, like)
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    chunks, rank = value.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    part = chunks[rank] if rank < len(chunks) else value[:0]  # fewer rows than processes
    return DTensor.from_local(
        _laid_out(part, local(like)), like.device_mesh, like.placements,
        run_check=False, shape=like.shape, stride=like.stride(),
    )  # fmt: skip


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=value.dtype, device=like.device).copy_(value)
