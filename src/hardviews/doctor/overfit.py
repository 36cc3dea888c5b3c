"""Trains a copy of the method on one batch with fixed views: a healthy set-up lowers the loss.

Teachers, centres and queues stay fixed too (``after_step`` is not called). With moving targets a healthy loss may rise:
DINO's does at first, while its centre moves.
"""

import time
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews.methods.base import Method, Progress
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.sample import DecodedSample
from hardviews.selection.search import first_ids
from hardviews.setup.step import create_step
from hardviews.training.optimizers import Rates, create_rates
from hardviews.views.draw import draw
from hardviews.views.render import render
from hardviews.views.streams import stream

STEPS, WARMUP = 40, 10
FEWEST = 16  # steps, however slow they are


@dataclass(frozen=True)
class OverfitResult:
    """The result of a few steps on one batch.

    Args:
        images: of the batch.
        losses: before every step.
        changes: of every step, the norm of the weights' change divided by the norm of the weights (parameters of two or
            more dimensions).
        unreached: the trainable parameters whose gradient was None or zero in every step.
        trainable: all trainable parameters.
    """

    images: int
    losses: list[float]
    changes: list[float]
    unreached: list[str]
    trainable: list[str]

    @property
    def finite(self) -> bool:
        return all(map(isfinite, [*self.losses, *self.changes]))

    @property
    def end(self) -> float:
        """The loss at the end: the median of the last quarter, since high rates make it jump."""
        return median(self.losses[-max(len(self.losses) // 4, 1) :])


def learn(
    options: PretrainOptions, method: Method[Any], fabric: Fabric, sample: DecodedSample, images: int, seconds: float
) -> OverfitResult:
    """Takes steps on one batch, at the peak rate of the run, with a short warm-up where the run has one.

    Args:
        options: resolved, of the whole run.
        method: a copy, which is trained here.
        fabric: of one process.
        sample: images to take.
        images: of the batch.
        seconds: no step begins after this time, except the first ``FEWEST``.
    """
    step = create_step(options, method, fabric, steps_per_epoch=STEPS)
    peak = create_rates(options, STEPS).peak
    rates = Rates(peak, peak, STEPS, WARMUP if options.warmup_epochs else 0)
    method.progress = Progress(0, options.epochs * STEPS, STEPS)
    batch = sample.batch(images).to(fabric.device)
    views = draw(method.plan, batch.size, stream(options.seed, "views", 0)).to(batch.device)
    views = views.take(first_ids(method.plan, images, batch.device), method.plan.slot_of_kept())
    kept = render(batch, views, method.plan)
    trainable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    weights = [parameter for parameter in trainable.values() if parameter.ndim > 1]
    reached: set[str] = set()
    losses, changes = [], []
    end = time.perf_counter() + seconds
    for number in range(STEPS):
        rates.set(step.optimizer, number)
        torch.manual_seed(options.seed)  # so that dropout is the same in every step
        loss = method.loss(step.network(kept, masks=views.mask))
        fabric.backward(loss)
        # Layers initialised to zero pass no gradient to the layers below at the first step.
        reached |= {n for n, p in trainable.items() if p.grad is not None and bool(p.grad.any())}
        method.after_backward()
        verdict = step.nonfinite.judge([loss])
        step.clip_gradients()
        before = [weight.detach().clone() for weight in weights]
        step.nonfinite.update(verdict["skipped"])
        step.optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        changes.append(_norm([w.detach() - b for w, b in zip(weights, before, strict=True)]) / _norm(before))
        if not isfinite(losses[-1]) or (number + 1 >= FEWEST and time.perf_counter() > end):
            break
    return OverfitResult(images, losses, changes, [name for name in trainable if name not in reached], list(trainable))


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(tensors)).norm())
