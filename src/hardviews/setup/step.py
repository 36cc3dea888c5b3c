"""The step of a run: its method, optimizer, rates and scoring, from resolved options."""

from dataclasses import fields
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hardviews.errors import InputError
from hardviews.methods.base import Method
from hardviews.networks.backbones import compile_backbones
from hardviews.options.pretraining import PretrainOptions
from hardviews.selection import policies
from hardviews.selection.scoring import Scoring
from hardviews.training.distributed.sharding import shard_backbones
from hardviews.training.optimizers import create_optimizer, create_rates, layer_scales, parameter_groups
from hardviews.training.schedules import ResolutionSchedule
from hardviews.training.scoring.replay import check_replay
from hardviews.training.step import Observe, Step, observe_nothing


def create_step(
    options: PretrainOptions,
    method: Method[Any],
    fabric: Fabric,
    steps_per_epoch: int,
    observe: Observe = observe_nothing,
) -> Step:
    check_norms(method, options, fabric.world_size)
    if options.score_once:
        check_once(method, options)
    method = synchronised(method, fabric.device.type, fabric.world_size)
    if options.compile:
        compile_backbones(method)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        shard_backbones(method, fabric.strategy.device_mesh["data_parallel"])
    groups = parameter_groups(
        method, options.weight_decay or 0.0, bool(options.decay_bias_and_norm), method.constant_rate,
        layer_scales(method.backbone, options.layer_decay),
    )  # fmt: skip
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
        clip_mode=options.clip_mode or "parameter",
        parts=options.grad_accumulation,
        scoring=scoring_of(options),
        observe=observe,
        min_contrast=options.min_contrast,
        # All of them, also where someone takes more steps than the run has.
        selecting=None
        if (options.select_from, options.select_until) == (0, 1)
        else selecting(options, options.epochs * steps_per_epoch),
        resolution=resolution_schedule(options, options.epochs * steps_per_epoch),
    )


def selecting(options: PretrainOptions, steps: int) -> range:
    """The steps of a run of ``steps`` that choose views."""
    return range(round(options.select_from * steps), round(options.select_until * steps))


def resolution_schedule(options: PretrainOptions, steps: int) -> ResolutionSchedule:
    """The sizes of views in a run of ``steps``."""
    return ResolutionSchedule(options.train_resolution, round(options.full_resolution_from * steps))


def scoring_of(options: PretrainOptions) -> Scoring:
    """The scoring settings of resolved options."""
    names = [field.name for field in fields(Scoring)]
    return Scoring(**{name: getattr(options, f"score_{name}") for name in names})


def synchronised(method: Method[Any], device_type: str, processes: int) -> Method[Any]:
    """Converts BN to synchronised BN, so that a run does not depend on the number of processes.

    By timm's conversion: torch's turns a layer that norms and activates into one that only norms. On the CPU torch has
    no such BN, and every process keeps its own statistics.
    """
    if processes == 1 or device_type == "cpu":
        return method
    converted: Method[Any] = convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    return converted


def uses_batch_statistics(method: nn.Module) -> bool:
    """Whether it has BN that uses batch statistics."""
    return any(isinstance(module, _BatchNorm) and module.training for module in method.modules())


def check_once(method: Method[Any], options: PretrainOptions) -> None:
    """Raises InputError if training can't take up what scoring computed."""
    if options.compile or options.strategy == "fsdp":
        given = "compile" if options.compile else "strategy fsdp"
        raise InputError(f"score-once: it takes single operations, which {given} changes; give --score-once false")
    check_replay(method.backbone, method.plan)


def check_norms(method: Method[Any], options: PretrainOptions, processes: int) -> None:
    """Raises InputError where BN would compute statistics of one image, or a method compare it with none."""
    images = options.images_per_step // options.grad_accumulation  # of a forward of all processes
    if options.accelerator == "cpu":  # see `synchronised`
        images //= processes
    if images == 1 and uses_batch_statistics(method):
        raise InputError(
            f"batch-size: {options.batch_size} leaves one image to a forward, and the BN of this network needs two; "
            "give more"
        )
    if options.images_per_step // options.grad_accumulation == 1 and method.needs_whole_batch:
        raise InputError(
            f"batch-size: {options.batch_size} leaves one image to a forward, and this method compares the images of a "
            "batch; give more"
        )
