"""Optimizers by name, their parameter groups, what every group is given at every step, and clipping."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.distributed as dist
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from hardviews.errors import unknown
from hardviews.methods.base import ClipMode
from hardviews.options.pretraining import PretrainOptions
from hardviews.training.distributed.sharding import is_sharded, local
from hardviews.training.schedules import warmup_cosine

OPTIMIZERS = ("adamw", "lars", "sgd")


def parameter_groups(
    network: nn.Module, weight_decay: float, decay_bias_and_norm: bool, constant_rate: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Trainable parameters by weight decay, by whether their rate follows the schedule (key ``"constant"``), and by
    whether they are shared out among processes, which optimizers can't take together.

    Args:
        network: whose parameters.
        weight_decay: of parameters with two or more dimensions; of the rest too where ``decay_bias_and_norm``.
        decay_bias_and_norm: whether biases and norms are decayed. LARS does not adapt the rate of groups without decay,
            which is what the SimCLR paper asks for.
        constant_rate: prefixes of parameters whose rate stays at its peak.
    """
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            constant = any(name.startswith(f"{prefix}.") for prefix in constant_rate)
            decayed = decay_bias_and_norm or parameter.ndim > 1
            groups.setdefault((constant, decayed, is_sharded(parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "constant": constant,
            "decayed": decayed,
        }
        for (constant, decayed, _), parameters in groups.items()
    ]


def create_optimizer(name: str, groups: list[dict[str, Any]], momentum: float, fused: bool = True) -> Optimizer:
    """SGD (without Nesterov, as SimSiam), LARS (You et al., 2017, as SimCLR) or AdamW, at rate 0 until a step sets it.

    Args:
        groups: of ``parameter_groups``.
        momentum: of SGD and LARS.
        fused: take torch's one kernel for the whole update, where there is one.
    """
    match name:
        case "sgd":
            sharded = any(is_sharded(parameter) for group in groups for parameter in group["params"])
            # torch has no fused SGD of what is shared out.
            return SGD(groups, lr=0.0, momentum=momentum, fused=fused and not sharded)
        case "lars":
            optimizer: Optimizer = Lars(groups, lr=0.0, momentum=momentum)
            return optimizer
        case "adamw":
            return AdamW(groups, lr=0.0, fused=fused)
        case _:
            raise unknown("optimizer", name, OPTIMIZERS)


def create_missing_momenta(optimizer: Optimizer) -> None:
    """Gives every parameter with a gradient a momentum of zero where SGD or LARS has none yet.

    The first update is the same by it. Left to itself, a fused SGD that skips its first step keeps unwritten memory as
    momentum, and one whose parameters get their first gradients at different steps fails.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@dataclass(frozen=True)
class Rates:
    """The learning rate and the weight decay at every step.

    Args:
        peak: learning rate already scaled to the batch.
        end: learning rate after the last step.
        steps, warmup: in steps.
        decay: weight decay at the first step.
        decay_end: weight decay after the last step, reached by half a cosine; None: it does not change.
        begin: step at which this schedule begins: a run that extends another has taken those before.
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
        """Lower or higher learning rates throughout."""
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
        """Gives every group of the optimizer its rate for this step, and its weight decay where that changes."""
        for group in optimizer.param_groups:
            group["lr"] = self.at(step, group["constant"])
            if self.decay_end is not None and group["decayed"]:
                group["weight_decay"] = self.decay_at(step)


def create_rates(options: PretrainOptions, steps_per_epoch: int) -> Rates:
    """Settled rates, the peak of which is per 256 images, scaled to the batch."""
    peak = (options.lr or 0.0) * options.images_per_step / 256
    warmup = round((options.warmup_epochs or 0.0) * steps_per_epoch)
    steps = options.epochs * steps_per_epoch
    return Rates(peak, options.min_lr or 0.0, steps, warmup, options.weight_decay or 0.0, options.weight_decay_end)


def clip(gradients: list[Tensor], limit: float, by: ClipMode) -> None:
    """Scales gradients down to a norm, in place.

    Args:
        gradients: whole, or shared out among processes.
        limit: of the norm.
        by: ``"parameter"`` clips each by its own norm, as DINO's code does, ``"all"`` by the norm of all.
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
