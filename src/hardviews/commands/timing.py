"""How long a step of several arms takes, side by side, before anything is trained."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import Any

import torch

from hardviews.commands.settling import settle
from hardviews.commands.sources import open_sources
from hardviews.commands.training_run import create_fabric, create_loader, create_step
from hardviews.data.loader import moved
from hardviews.training.options import PretrainOptions
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch

WARM_UP = 2  # steps: memory is taken, kernels are chosen
AHEAD = 2  # batches that every worker holds
LONGEST = 120.0  # seconds after which no further round of slow steps is begun


@dataclass(frozen=True)
class Timing:
    """What a step takes.

    Args:
        steps: seconds of a step of every arm.
        data: seconds in which the loader makes a batch.
        steps_per_epoch: of all arms.
        beside: whether workers make it beside a step, so that the longer of the two counts.
    """

    steps: dict[str, float]
    data: float
    steps_per_epoch: int
    beside: bool = True

    def epoch(self, arm: str) -> float:
        """Seconds of an arm's epoch."""
        step = self.steps[arm]
        return self.steps_per_epoch * (max(step, self.data) if self.beside else step + self.data)


def time_arms(arms: Mapping[str, PretrainOptions], rounds: int) -> Timing:
    """Medians over ``rounds`` steps of every arm, taken in turns on the same batches of real images. Of several
    devices, on one with its share of the batch: what they tell each other is not in it.

    Raises:
        InputError: an arm can't be built.
    """
    alone = {name: replace(arm, devices=1, nodes=1, batch_size=_share(arm)) for name, arm in arms.items()}
    first = next(iter(alone.values()))
    source, _ = open_sources(first)
    settled = {name: settle(arm, source) for name, arm in alone.items()}
    options, _ = settled[next(iter(alone))]
    fabric = create_fabric(options)
    loader = create_loader(options, source, fabric)
    steps = {
        # Without learning: an arm that would diverge is no matter of its time.
        name: create_step(replace(arm, lr=0.0, min_lr=0.0), method, fabric, loader.steps_per_epoch)
        for name, (arm, method) in settled.items()
    }
    batches = moved(loader.batches(0), fabric.device)
    spent: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + LONGEST
    for turn in range(WARM_UP + max(rounds, *(arm.score_every for arm in alone.values()))):
        images = next(batches)
        for name, step in steps.items():
            spent[name].append(_seconds(lambda: _take(step, images, turn), fabric.device))  # noqa: B023  # called at once
        if turn > WARM_UP and time.perf_counter() > end:
            break
    data = seconds_to_make(batches, options.workers, rounds)
    medians = {name: _typical(times, alone[name].score_every) for name, times in spent.items()}
    return Timing(medians, data, len(source) // next(iter(arms.values())).images_per_step, options.workers > 0)


def seconds_to_make(batches: Iterator[ImageBatch], workers: int, rounds: int, longest: float = inf) -> float:
    """Seconds in which a loader makes a batch, the mean of so many, or of as many as there is time for.

    Args:
        batches: of the loader, whose workers have made some in the meantime.
        workers: how many.
        rounds: batches that are waited for.
        longest: seconds after which no further one is.
    """
    for _ in range(AHEAD * workers):  # made meanwhile
        next(batches)
    begun, spent, made = time.perf_counter(), 0.0, 0
    while made < rounds and spent <= longest:
        next(batches)
        made, spent = made + 1, time.perf_counter() - begun
    return spent / made


def _share(arm: PretrainOptions) -> int:
    """A device's images of a step; of several devices two a forward at least, since one alone has no others' for BN."""
    processes = arm.devices * arm.nodes
    return arm.images_per_step if processes == 1 else max(arm.images_per_step // processes, 2 * arm.accumulate)


def _take(step: Step, images: ImageBatch, number: int) -> None:
    step.watch.start()
    step(images, number)


def _seconds(do: Callable[[], Any], device: torch.device) -> float:
    begun = time.perf_counter()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _typical(times: Sequence[float], every: int) -> float:
    """The mean, over steps that choose and those in between, of the median of each kind."""
    kinds = [
        [seconds for turn, seconds in enumerate(times) if turn >= WARM_UP and turn % every == kind]
        for kind in range(every)
    ]
    known = [median(kind) for kind in kinds if kind]
    return sum(known) / len(known)
