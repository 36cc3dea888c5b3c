"""Carries out a run: data, settled options and method in; step, loop, folder and summary out."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from rich.console import Console
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hardviews.commands.batch_size import agreed, settle_batch_size
from hardviews.commands.monitoring import create_describe, create_evaluate, settle_bank
from hardviews.commands.notices import shared_figures, tell, tell_unlabelled
from hardviews.commands.processes import part_ways, shared_by, together
from hardviews.commands.settling import settle
from hardviews.commands.sources import open_training
from hardviews.commands.summaries import finish, headline, show
from hardviews.data import workers
from hardviews.data.loader import Loader
from hardviews.data.sources import ImageSource
from hardviews.data.streaming import SHUFFLE_BYTES, Stream
from hardviews.errors import InputError, StoppedError
from hardviews.methods.base import Method
from hardviews.networks.backbones import compile_backbones
from hardviews.networks.weights import Match
from hardviews.selection import policies
from hardviews.selection.scoring import Scoring
from hardviews.training.loggers import Logger, TensorBoard, WeightsAndBiases
from hardviews.training.loop import Loop
from hardviews.training.meeting import Meeting
from hardviews.training.monitor import Monitor
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.options import PretrainOptions
from hardviews.training.precision import choose_kernels
from hardviews.training.run_folder import RunFolder
from hardviews.training.sharding import Whole, shard_backbones, take_first_buffers
from hardviews.training.step import Observe, Step, look_away
from hardviews.training.telemetry import Followed, Telemetry
from hardviews.views.plan import ViewPlan

# The weights, as many numbers of the optimizer (twice for AdamW): of the last two checkpoints and the next beside them.
CHECKPOINT_COPIES = 9
# How long a collective waits for a process: longer than that process waits for a batch that does not come, so that it
# can say why. What may take longer is ``Meeting.slowly``. A process that dies ends the others without it.
PATIENCE = timedelta(seconds=workers.PATIENCE + 300)
# How long processes wait for each other to start: some list a large folder, download a data set or start late.
STARTING = timedelta(hours=2)


@together()
def pretrain(options: PretrainOptions, as_json: bool = False) -> dict[str, Any]:
    """Trains to the end, or goes on where the run folder's checkpoint stands.

    Args:
        options: as parsed.
        as_json: print the summary as JSON on standard output, and everything else on standard error.

    Returns:
        What ``summary.json`` holds.

    Raises:
        InputError: before anything is written.
        RunError: the run could not go on.
    """
    console = Console(stderr=as_json)
    source, test = open_training(options)
    if isinstance(source, Stream):  # its images are known now, and are not followed
        options = replace(options, epoch_images=len(source), telemetry=0)
    matches: list[Match] = []
    options, method = settle(options, source, matches.append)
    options = settle_bank(settle_batch_size(options))
    config = config_of(options)
    name = options.out or str(run_folder_name(options, time.strftime("%Y%m%d-%H%M%S")))
    parameters = sum(parameter.numel() for parameter in method.parameters())
    RunFolder(Path(name)).check(config, CHECKPOINT_COPIES * 4 * parameters)
    fabric = create_fabric(options)
    options = agreed(fabric, options)
    config["batch_size"] = options.batch_size
    with Meeting(fabric).slowly():  # it may decode all images
        loader = create_loader(options, source, fabric)
    folder = RunFolder(Path(fabric.broadcast(name)))  # the clocks of processes differ
    telemetry = create_telemetry(options, method.plan, fabric, loader, folder, console)
    evaluated = create_evaluated(method, fabric)
    step = create_step(options, method, fabric, loader.steps_per_epoch, telemetry.note)
    with Meeting(fabric).slowly():  # test images are compared with training images
        if fabric.is_global_zero:
            folder.open(config)
            for match in matches:
                folder.write_init(match._asdict())
            tell(source, test, options.test_data)
            if options.knn_epochs:
                tell_unlabelled(source, "no kNN accuracy is measured on the way")
            said = headline(options, source, step, fabric, folder)
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    evaluate = None
    if options.knn_epochs and not isinstance(source, Stream):
        evaluate = create_evaluate(options, source, test, method.plan, fabric)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    epochs, every = options.epochs, options.knn_epochs
    describe = create_describe(options)
    monitor = Monitor(fabric, folder, evaluated, evaluate, describe, say, every, epochs, loader.steps_per_epoch)
    loop = Loop(
        fabric, step, loader, folder, epochs, monitor, options.checkpoint_steps, options.keep_epochs,
        options.max_skipped, options.log_steps,
        partial(create_loggers, options, folder, config), telemetry, console,
    )  # fmt: skip
    going_on = f"the same command with --out {folder.path} goes on from its last checkpoint"
    try:
        with together(going_on):
            loop.run()
    except StoppedError:
        with Meeting(fabric).slowly():  # once one has left, the others are soon ended
            loop.logbook.close()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(going_on) from None
    finally:
        loop.logbook.close()
    part_ways()
    summary: dict[str, Any] = {}
    if fabric.is_global_zero:
        summary = finish(options, folder, shared_figures(source, test, options.test_data))
        show(summary, folder, console, as_json)
    return summary


def config_of(options: PretrainOptions) -> dict[str, Any]:
    """What ``config.yaml`` holds of settled options."""
    options = replace(options, backbone=replace(options.backbone, module=None))  # of which the name tells
    config = {key: value for key, value in asdict(options).items() if key not in ("out", "allow_pipe")}
    del config["backbone"]["module"]
    return config


def create_fabric(options: PretrainOptions) -> Fabric:
    """Of this process and the others, all of which come here."""
    devices, nodes = shared_by(options)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it would say is in the headline
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=options.precision,  # type: ignore[arg-type]  # settled by now, never "auto"
        strategy=create_strategy(options, devices * nodes),
    )
    fabric.launch()
    choose_kernels(options.deterministic)
    if fabric.world_size > 1:
        answer_within(PATIENCE, fabric.strategy)
    return fabric


def answer_within(patience: timedelta, strategy: Strategy) -> None:
    """How long collectives wait for a process from now on, where all have started."""
    from torch.distributed import distributed_c10d

    # torch 2.6 has it under a private name.
    set_timeout = getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout
    groups = strategy.device_mesh.get_all_groups() if isinstance(strategy, ModelParallelStrategy) else []
    for group in (None, *groups):  # of which the first is all processes
        set_timeout(patience, group)


def create_strategy(options: PretrainOptions, processes: int) -> str | Strategy:
    if processes == 1:
        return "auto"
    if options.strategy == "ddp":
        return DDPStrategy(timeout=STARTING)
    # What is shared out is known before the optimizer is made; fabric is left nothing to do.
    return ModelParallelStrategy(
        lambda network, _: network, data_parallel_size=processes, tensor_parallel_size=1, timeout=STARTING
    )


def create_loader(options: PretrainOptions, source: ImageSource | Stream, fabric: Fabric) -> Loader:
    return Loader(
        source,
        batch_size=options.images_per_step // fabric.world_size,
        seed=options.seed,
        process=fabric.global_rank,
        processes=fabric.world_size,
        workers=options.workers,
        decode_size=options.decode_size or 0,
        max_batch_bytes=options.max_batch_bytes,
        tolerance=options.max_unreadable,
        pin_memory=fabric.device.type == "cuda",
        device=fabric.device,
        in_memory=in_memory(options),
        shuffle_bytes=SHUFFLE_BYTES if options.shuffle_bytes is None else options.shuffle_bytes,
    )


def in_memory(options: PretrainOptions) -> bool | Literal["auto"]:
    """As a loader is told."""
    return "auto" if options.in_memory == "auto" else options.in_memory == "on"


def create_telemetry(
    options: PretrainOptions, plan: ViewPlan, fabric: Fabric, loader: Loader, folder: RunFolder, console: Console
) -> Telemetry:
    images, steps = len(loader.source), loader.steps_per_epoch
    count = min(options.telemetry, images)
    followed = Followed(images, count, options.gallery, options.seed, options.policy, options.score_every, steps)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    return Telemetry(folder.telemetry, plan, followed, fabric.global_rank, fabric.world_size, say)


def create_evaluated(method: Method[Any], fabric: Fabric) -> Callable[[Meeting], nn.Module]:
    """What is measured on the way: the same in every process, which measures a part of the images by it."""
    network = method.get_submodule(method.evaluated)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        whole = Whole(network)
        return lambda meeting: whole.of(network, meeting)

    def evaluated(meeting: Meeting) -> nn.Module:
        if fabric.world_size > 1:
            take_first_buffers(network)  # as the next step would
        return network

    return evaluated


def create_step(
    options: PretrainOptions, method: Method[Any], fabric: Fabric, steps_per_epoch: int, observe: Observe = look_away
) -> Step:
    check_norms(method, options, fabric.world_size)
    method = synchronised(method, fabric.device.type, fabric.world_size)
    if options.compile:
        compile_backbones(method)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        shard_backbones(method, fabric.strategy.device_mesh["data_parallel"])
    groups = parameter_groups(method, options.weight_decay or 0.0, bool(options.decay_1d), method.constant_rate)
    return Step(
        fabric,
        method,
        create_optimizer(options.optimizer or "", groups, options.momentum or 0.0),
        create_rates(options, steps_per_epoch),
        policies.named(options.policy),
        options.seed,
        steps=options.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        clip=options.clip or 0.0,
        clip_by=options.clip_by or "parameter",
        parts=options.accumulate,
        scoring=scoring_of(options),
        observe=observe,
    )


def scoring_of(options: PretrainOptions) -> Scoring:
    """Of settled options."""
    names = [field.name for field in fields(Scoring)]
    return Scoring(**{name: getattr(options, f"score_{name}") for name in names})


def synchronised(method: Method[Any], device_type: str, processes: int) -> Method[Any]:
    """Gives every BN the statistics of all processes' images, so that a run does not depend on how many share them.

    By timm's conversion: torch's turns a layer that norms and activates into one that only norms. On the CPU torch has
    no such BN, and every process keeps its own statistics.
    """
    if processes == 1 or device_type == "cpu":
        return method
    converted: Method[Any] = convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    return converted


def uses_batch_statistics(method: nn.Module) -> bool:
    """Whether it has BN that norms by the statistics of the batch."""
    return any(isinstance(module, _BatchNorm) and module.training for module in method.modules())


def check_norms(method: Method[Any], options: PretrainOptions, processes: int) -> None:
    """Raises InputError where BN would get the statistics of one image."""
    images = options.images_per_step // options.accumulate  # of a forward of all processes
    if options.accelerator == "cpu":  # see `synchronised`
        images //= processes
    if images == 1 and uses_batch_statistics(method):
        raise InputError(
            f"batch-size: {options.batch_size} leaves one image to a forward, and the BN of this network needs two; "
            "give more"
        )


def create_rates(options: PretrainOptions, steps_per_epoch: int) -> Rates:
    """Settled rates, the peak of which is per 256 images, scaled to the batch."""
    peak = (options.lr or 0.0) * options.images_per_step / 256
    warmup = round((options.warmup_epochs or 0.0) * steps_per_epoch)
    steps = options.epochs * steps_per_epoch
    return Rates(peak, options.min_lr or 0.0, steps, warmup, options.weight_decay or 0.0, options.weight_decay_end)


def create_loggers(options: PretrainOptions, folder: RunFolder, config: Mapping[str, Any], step: int) -> list[Logger]:
    """Of a run that begins, or goes on, at a step."""
    loggers: list[Logger] = []
    if options.wandb is not None:
        loggers.append(WeightsAndBiases(options.wandb, folder.path, config))
    if options.tensorboard:
        loggers.append(TensorBoard(folder.path, step))
    return loggers


def run_folder_name(options: PretrainOptions, now: str) -> Path:
    """Where a run goes that was not told: ``runs/TIME-METHOD-DATA``."""
    data = re.sub(r"[^\w.-]+", "-", Path(str(options.data)).name) or "data"
    return Path("runs") / f"{now}-{options.method['name'].rpartition('.')[2]}-{data}"
