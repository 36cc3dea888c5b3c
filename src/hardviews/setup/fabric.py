"""The processes and devices of a run."""

import logging
from datetime import timedelta

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

from hardviews.data.loading import workers
from hardviews.errors import InputError
from hardviews.launch.environment import started
from hardviews.launch.processes import meet_once
from hardviews.options.pretraining import PretrainOptions
from hardviews.training.precision import choose_kernels, device_type
from hardviews.wording import several

# Timeout of collectives: longer than a process waits for a missing batch, so that this process can print why. Slower
# work runs in ``Meeting.slow_work``. When a process dies, the others end without this timeout.
PATIENCE = timedelta(seconds=workers.PATIENCE + 300)
# How long processes wait for each other to start: one may list a large folder, download a data set or start late.
STARTING = timedelta(hours=2)


def create_fabric(options: PretrainOptions) -> Fabric:
    """The fabric of this process, launched. All processes have to call this."""
    devices, nodes = shared_by(options)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the headline says the same
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=options.precision,  # type: ignore[arg-type]  # resolved by now, never "auto"
        strategy=create_strategy(options, devices * nodes),
    )
    meet_once(devices * nodes)
    fabric.launch()
    choose_kernels(options.deterministic)
    if fabric.world_size > 1:
        answer_within(PATIENCE, fabric.strategy)
    return fabric


def answer_within(patience: timedelta, strategy: Strategy) -> None:
    """Sets the timeout of collectives, once all processes have started."""
    from torch.distributed import distributed_c10d

    # torch 2.6 has it under a private name.
    set_timeout = getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout
    groups = strategy.device_mesh.get_all_groups() if isinstance(strategy, ModelParallelStrategy) else []
    for group in (None, *groups):  # None is the group of all processes
        set_timeout(patience, group)


def create_strategy(options: PretrainOptions, processes: int) -> str | Strategy:
    if processes == 1:
        return "auto"
    if options.strategy == "ddp":
        return DDPStrategy(timeout=STARTING)
    # `create_step` shards the backbones before it makes the optimizer, so fabric has nothing left to do.
    return ModelParallelStrategy(
        lambda network, _: network, data_parallel_size=processes, tensor_parallel_size=1, timeout=STARTING
    )


def shared_by(options: PretrainOptions) -> tuple[int, int]:
    """Processes per machine, and machines; raises as ``started`` and ``check_shares`` do."""
    devices, nodes = started(options.devices, options.nodes)
    check_shares(options, devices, nodes)
    return devices, nodes


def check_shares(options: PretrainOptions, devices: int, nodes: int) -> None:
    """Raises InputError where a batch can't be split evenly among processes, or there are too few devices."""
    import torch

    available = torch.cuda.device_count() if device_type(options.accelerator) == "cuda" else devices
    if devices > available:
        raise InputError(f"devices: {devices} asked for, {available} available here")
    if min(devices, nodes, options.grad_accumulation) < 1:
        raise InputError("--devices, --nodes and --grad-accumulation must be at least 1")
    shares = devices * nodes * options.grad_accumulation
    if options.batch_size == "auto":  # it becomes a number that can be split evenly
        return
    if options.images_per_step % shares:
        raise InputError(
            f"batch-size: {several(options.images_per_step, 'image')} can't be shared evenly by "
            f"{devices} x {nodes} devices in {several(options.grad_accumulation, 'part')}"
        )
