"""Optimizers by name, their parameter groups, learning rates and weight decay per step, and clipping."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.distributed as dist
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from hardviews.errors import InputError, unknown
from hardviews.methods.base import ClipMode
from hardviews.options.pretraining import PretrainOptions
from hardviews.training.distributed.sharding import is_sharded, local
from hardviews.training.schedules import warmup_cosine

OPTIMIZERS = ("adamw", "lars", "sgd")


def parameter_groups(
    network: nn.Module, weight_decay: float, decay_bias_and_norm: bool, constant_rate: tuple[str, ...] = (),
    scales: Mapping[int, float] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Groups trainable parameters by weight decay, by whether their rate follows the schedule (key ``"constant"``), by
    a factor of their rate, and by whether they are sharded, since optimizers can't update both kinds together.

    Args:
        network: whose parameters.
        weight_decay: of parameters with two or more dimensions, and of the rest if ``decay_bias_and_norm``.
        decay_bias_and_norm: whether to decay biases and norms. LARS does not adapt the rate of groups without decay, as
            the SimCLR paper requires.
        constant_rate: prefixes of parameters whose rate stays at its peak.
        scales: of ``layer_scales``; groups have the factor as ``"scale"``, and none without this.
    """
    groups: dict[tuple[bool, bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            constant = any(name.startswith(f"{prefix}.") for prefix in constant_rate)
            decayed = decay_bias_and_norm or parameter.ndim > 1
            scale = (scales or {}).get(id(parameter), 1.0)
            groups.setdefault((constant, decayed, is_sharded(parameter), scale), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "constant": constant,
            "decayed": decayed,
            **({} if scales is None else {"scale": scale}),
        }
        for (constant, decayed, _, scale), parameters in groups.items()
    ]


def layer_scales(backbone: nn.Module, decay: float) -> dict[int, float] | None:
    """The factor of the learning rate of every trainable parameter, by its ``id``: 1 in the backbone's last layer, and
    ``decay`` times that of the next layer before it, by timm's own rule of what a layer is (``group_matcher``). None
    with a decay of 1.

    Source: Clark et al., "ELECTRA", ICLR 2020 (arXiv 2003.10555), section 3.1; for images "BEiT" (arXiv 2106.08254).

    Raises:
        InputError: the backbone is not one of timm's.
    """
    if decay == 1:
        return None
    if not hasattr(backbone, "group_matcher"):
        raise InputError(
            f"layer-decay: {type(backbone).__name__} does not say what its layers are, as timm's models do; leave it "
            "out"
        )
    groups = param_groups_layer_decay(backbone, layer_decay=decay)
    return {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}


def create_optimizer(name: str, groups: list[dict[str, Any]], momentum: float, fused: bool = True) -> Optimizer:
    """SGD (without Nesterov, as in SimSiam), LARS (You et al., 2017, as in SimCLR) or AdamW, at rate 0 until a step
    sets it.

    Args:
        groups: from ``parameter_groups``.
        momentum: of SGD and LARS.
        fused: use torch's single kernel for the entire update, if it exists.
    """
    match name:
        case "sgd":
            sharded = any(is_sharded(parameter) for group in groups for parameter in group["params"])
            # torch has no fused SGD for sharded parameters.
            return SGD(groups, lr=0.0, momentum=momentum, fused=fused and not sharded)
        case "lars":
            optimizer: Optimizer = Lars(groups, lr=0.0, momentum=momentum)
            return optimizer
        case "adamw":
            return AdamW(groups, lr=0.0, fused=fused)
        case _:
            raise unknown("optimizer", name, OPTIMIZERS)


def create_missing_momenta(optimizer: Optimizer) -> None:
    """Creates a zero momentum for every parameter with a gradient that has none yet, for SGD and LARS.

    The first update stays the same. Without this, a fused SGD that skips its first step uses uninitialised memory as
    momentum, and fails if parameters get their first gradients at different steps.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@dataclass(frozen=True)
class Rates:
    """Learning rate and weight decay at every step.

    Args:
        peak: learning rate, already scaled to the batch.
        end: learning rate after the last step.
        steps, warmup: number of steps.
        decay: weight decay at the first step.
        decay_end: weight decay after the last step, reached along a half cosine; None for a constant one.
        begin: step at which this schedule begins; a run that extends another has taken the steps before it.
        begin_rate: learning rate at that step, from which the warm-up goes to the peak.
    """

    peak: float
    end: float
    steps: int
    warmup: int
    decay: float = 0.0
    decay_end: float | None = None
    begin: int = 0
    begin_rate: float = 0.0

    def scaled(self, factor: float) -> Self:
        """The same schedule with all learning rates multiplied by a factor."""
        return replace(self, peak=factor * self.peak, end=factor * self.end, begin_rate=factor * self.begin_rate)

    def at(self, step: int, constant: bool = False) -> float:
        if constant:
            return self.peak
        done, steps = step - self.begin, self.steps - self.begin
        return warmup_cosine(done, steps, self.peak, self.end, self.warmup, self.begin_rate)

    def decay_at(self, step: int) -> float:
        if self.decay_end is None:
            return self.decay
        return warmup_cosine(step - self.begin, self.steps - self.begin, self.decay, self.decay_end)

    def set(self, optimizer: Optimizer, step: int) -> None:
        """Sets every group's learning rate for this step, and its weight decay if that changes."""
        for group in optimizer.param_groups:
            # Only groups of runs with --layer-decay have a scale.
            group["lr"] = self.at(step, group["constant"]) * group.get("scale", 1.0)
            if self.decay_end is not None and group["decayed"]:
                group["weight_decay"] = self.decay_at(step)


def create_rates(options: PretrainOptions, steps_per_epoch: int) -> Rates:
    """Rates from complete options; scales the peak, given per 256 images, to the batch."""
    peak = (options.lr or 0.0) * options.images_per_step / 256
    warmup = round((options.warmup_epochs or 0.0) * steps_per_epoch)
    steps = options.epochs * steps_per_epoch
    return Rates(peak, options.min_lr or 0.0, steps, warmup, options.weight_decay or 0.0, options.weight_decay_end)


def clip(gradients: list[Tensor], limit: float, by: ClipMode) -> None:
    """Scales gradients down to a norm, in place.

    Args:
        gradients: unsharded or sharded.
        limit: maximum norm.
        by: ``"parameter"`` clips each gradient by its own norm, as in DINO's code; ``"all"`` by their joint norm.
    """
    parts = [local(gradient) for gradient in gradients]
    norms = torch.stack(torch._foreach_norm(parts))
    sharded = [is_sharded(gradient) for gradient in gradients]
    if any(sharded):
        shared = torch.tensor(sharded, device=norms.device)
        squares = torch.where(shared, norms.square(), 0)
        dist.all_reduce(squares)
        norms = torch.where(shared, squares.sqrt(), norms)
    scales = (limit / ((norms if by == "parameter" else norms.norm()) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(parts, list(scales.expand(len(parts)).unbind()))
