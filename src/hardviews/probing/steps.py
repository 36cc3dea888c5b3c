"""Probe steps: training steps of growing batches at rate 0 in one process, to measure memory and time."""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric

from hardviews.methods.base import Method
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.sample import DecodedSample
from hardviews.setup.step import create_step
from hardviews.training.memory import is_out_of_memory, peak, start_peak
from hardviews.training.step import Observe, Step, observe_nothing
from hardviews.training.stopwatch import Stopwatch

QUICK = 2.0  # seconds of a step that is taken a second time, since the first chooses kernels and takes memory


@dataclass(frozen=True)
class ProbeStep:
    """Memory and time of one step.

    Args:
        images: of the step.
        memory: peak memory of the process in bytes (``training/memory.py``).
        seconds: by part of the step: render, score, train.
        finite: whether loss, costs and gradients were finite.
    """

    images: int
    memory: int
    seconds: dict[str, float]
    finite: bool = True

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class ProbeSteps:
    """Probe steps of ascending batch sizes.

    Args:
        taken: those that succeeded.
        too_large: batch size of the first that ran out of memory; None if none did.
    """

    taken: list[ProbeStep]
    too_large: int | None = None

    def memory(self, images: int) -> int:
        """Bytes that a step of so many images holds at most: as measured, else by the line through the two largest
        steps, or in proportion to the only one. First steps take some memory once, so small ones say too much rather
        than too little. Costs of pairs of images (SimCLR's), which grow faster, are too small beside what networks hold
        to bend the line."""
        *before, last = [trial for trial in self.taken if trial.images <= images] or self.taken[:1]
        slope = last.memory / last.images
        if before:
            slope = max((last.memory - before[-1].memory) / (last.images - before[-1].images), 0.0)
        return round(last.memory + slope * (images - last.images))

    def seconds(self, images: int) -> dict[str, float]:
        """Seconds by part of a step of so many images, in proportion to the largest."""
        last = self.taken[-1]
        return {part: spent * images / last.images for part, spent in last.seconds.items()}


def lone_fabric(options: PretrainOptions) -> Fabric:
    """A fabric of one process on the device of this one; no other process is started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    own = [int(os.environ.get("LOCAL_RANK", "0"))] if options.accelerator == "cuda" else 1
    precision: Any = options.precision  # resolved by now, never "auto"
    return Fabric(accelerator=options.accelerator, devices=own, precision=precision)


def probe_step(
    options: PretrainOptions,
    method: Method[Any],
    fabric: Fabric,
    steps_per_epoch: int,
    observe: Observe = observe_nothing,
) -> Step:
    """A run's step at rate 0, not compiled, with views of full size: they take the most memory."""
    still = replace(options, lr=0.0, min_lr=0.0, compile=False)
    still = replace(still, select_from=0.0, select_until=1.0, train_resolution=1.0)
    return create_step(still, method, fabric, steps_per_epoch, observe)


def sizes_up_to(images: int, parts: int) -> list[int]:
    """Batch sizes to try first, doubling from a small one, up to ``images`` in ``parts`` micro-batches."""
    sizes = [images]
    while sizes[0] > 4 * parts:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def grow(step: Step, sample: DecodedSample, sizes: Iterable[int], seconds: float, most: int) -> ProbeSteps:
    """Takes one step of every size, until memory or time runs out.

    Args:
        step: of ``probe_step``.
        sample: images to take.
        sizes: ascending.
        seconds: steps that would end later are not begun, except the first two.
        most: bytes; on a CPU no step is tried that needs more, since the system kills such a process.
    """
    device, end = step.fabric.device, time.perf_counter() + seconds
    found = ProbeSteps([])
    for size in sizes:
        if len(found.taken) > 1:
            last = found.taken[-1]
            expected = last.total * size / last.images * (2 if last.total < QUICK else 1)
            if time.perf_counter() + expected > end or (device.type == "cpu" and found.memory(size) > most):
                break
        try:
            found.taken.append(_tried(step, sample, size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = replace(found, too_large=size)
            break
    if found.too_large:
        step.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def _tried(step: Step, sample: DecodedSample, size: int) -> ProbeStep:
    start_peak(step.fabric.device)
    images = sample.batch(size).to(step.fabric.device)
    for _ in range(2):
        kinds = [_seconds(step, images, number) for number in range(2 if step.scorer.scoring.every > 1 else 1)]
        if sum(sum(seconds.values()) for seconds, _ in kinds) > QUICK:
            break
    (seconds, finite), (plain, _) = kinds[0], kinds[-1]
    share = 1 / step.scorer.scoring.every  # of steps that choose views; the others cost what the second step does
    mean = {part: share * spent + (1 - share) * plain.get(part, 0.0) for part, spent in seconds.items()}
    return ProbeStep(size, peak(step.fabric.device), mean, finite)


def _seconds(step: Step, images: Any, number: int) -> tuple[dict[str, float], bool]:
    step.watch.start()
    report = step(images, number)
    finite = not bool(report.values["skipped"])
    return Stopwatch.seconds(report.marks), finite
