"""How long steps of several arms take, side by side, and what their runs take besides, before anything is trained."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric

from hardviews.data.loading.loader import moved
from hardviews.data.sources import ImageSource
from hardviews.methods.base import Method
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.evaluation_time import rehearse, rehearse_evaluation
from hardviews.setup.data import create_loader, open_sources
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.monitoring import preprocessing_of
from hardviews.setup.step import create_step
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch

WARM_UP = 2  # steps: memory is taken, kernels are chosen
AHEAD = 2  # batches that every worker holds
LONGEST = 120.0  # seconds after which no further round of slow steps is begun


@dataclass(frozen=True)
class Besides:
    """Seconds that a run takes besides its steps.

    Args:
        start: of a process, until its data is opened and its network built.
        loading: of the process that trains, until small sets are decoded and kernels chosen.
        measurement: of each measurement on the way; 0 where nothing is labelled.
        pixels: in which raw pixels are compared, once.
        evaluation: of what is measured at the end.
        unknown: protocols whose time is not in ``evaluation``.
    """

    start: float = 0.0
    loading: float = 0.0
    measurement: float = 0.0
    pixels: float = 0.0
    evaluation: float = 0.0
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """What a step takes.

    Args:
        steps: seconds of a step of every arm.
        data: seconds in which the loader makes a batch.
        steps_per_epoch: of all arms.
        beside: whether workers make it beside a step, so that the longer of the two counts.
        besides: what a run of every arm takes besides.
    """

    steps: dict[str, float]
    data: float
    steps_per_epoch: int
    beside: bool = True
    besides: dict[str, Besides] = field(default_factory=dict)

    def epoch(self, arm: str) -> float:
        """Seconds of an arm's epoch."""
        step = self.steps[arm]
        return self.steps_per_epoch * (max(step, self.data) if self.beside else step + self.data)


def time_arms(
    arms: Mapping[str, PretrainOptions], rounds: int, evaluation: EvaluateOptions | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None, begun: float | None = None,
) -> Timing:  # fmt: skip
    """Medians over ``rounds`` steps of every arm, taken in turns on the same batches of real images; and what their
    runs take besides, by this start and by measuring a sample. Of several devices, on one with its share of the batch:
    what they tell each other is not in it.

    Args:
        arms: options of every arm.
        rounds: steps that are timed.
        evaluation: how runs are measured at their end; None: they are not.
        settings: of every protocol that they are measured by.
        begun: ``time.time()`` before this process was started; by default now.

    Raises:
        InputError: an arm can't be built, or not be measured.
    """
    begun = time.time() if begun is None else begun
    alone = {name: replace(arm, devices=1, nodes=1, batch_size=_share(arm)) for name, arm in arms.items()}
    first = next(iter(alone.values()))
    source, test = open_sources(first)
    settled = {next(iter(alone)): resolve_defaults(first, source)}
    options, _ = settled[next(iter(alone))]
    fabric = create_fabric(options)
    start = time.time() - begun
    loader = create_loader(options, source, fabric)
    loading = time.time() - begun - start
    settled |= {name: resolve_defaults(arm, source) for name, arm in alone.items() if name not in settled}
    steps = {
        # Without learning: an arm that would diverge is no matter of its time.
        name: create_step(
            replace(arm, lr=0.0, min_lr=0.0, select_from=0.0, select_until=1.0), method, fabric, loader.steps_per_epoch
        )
        for name, (arm, method) in settled.items()
    }
    shares = {name: arm.select_until - arm.select_from for name, arm in alone.items()}
    turns = WARM_UP + max(rounds, *(2 * arm.score_every for arm in alone.values()))
    for name, step in steps.items():
        if shares[name] < 1:  # both kinds of steps are timed
            step.selecting = range(0, turns, 2 * alone[name].score_every)
    batches = moved(loader.batches(0), fabric.device)
    spent: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + LONGEST
    for turn in range(turns):
        images = next(batches)
        for name, step in steps.items():
            spent[name].append(_seconds(lambda: _take(step, images, turn), fabric.device))  # noqa: B023  # called at once
        if turn > WARM_UP and time.perf_counter() > end:
            break
    data = seconds_to_make(batches, options.workers, rounds)
    medians = {name: _typical(times, alone[name].score_every, shares[name]) for name, times in spent.items()}
    besides, known = {}, dict[str, dict[str, Any]]()
    for name, (arm, method) in settled.items():
        warm_up = max(sum(spent[name][:WARM_UP]) - WARM_UP * medians[name], 0.0)
        network = repr((arm.backbone, arm.image_size, arm.crop, bool(arm.knn_epochs)))
        if network not in known:  # most arms differ in their views alone
            known[network] = _measuring(arm, method, source, test, evaluation, settings or {}, fabric)
        besides[name] = Besides(start, loading + warm_up, **known[network])
    per_epoch = len(source) // next(iter(arms.values())).images_per_step
    return Timing(medians, data, per_epoch, options.workers > 0, besides)


def _measuring(
    options: PretrainOptions, method: Method[Any], source: ImageSource, test: ImageSource | None,
    evaluation: EvaluateOptions | None, settings: Mapping[str, Mapping[str, Any]], fabric: Fabric,
) -> dict[str, Any]:  # fmt: skip
    """Those of ``Besides`` that measuring takes."""
    backbone = method.get_submodule(method.evaluated)
    found: dict[str, Any] = {}
    if source.labels is not None and options.knn_epochs:
        rehearsal = rehearse(options, source, test, backbone, method.plan, fabric)
        found = {"measurement": rehearsal.each, "pixels": rehearsal.pixels}
    if evaluation is not None:
        ready = preprocessing_of(options, method.plan)
        seconds, unknown = rehearse_evaluation(evaluation, settings, backbone, ready, fabric)
        found |= {"evaluation": seconds, "unknown": tuple(unknown)}
    return found


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
    return arm.images_per_step if processes == 1 else max(arm.images_per_step // processes, 2 * arm.grad_accumulation)


def _take(step: Step, images: ImageBatch, number: int) -> None:
    step.watch.start()
    step(images, number)


def _seconds(do: Callable[[], Any], device: torch.device) -> float:
    begun = time.perf_counter()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _typical(times: Sequence[float], every: int, share: float) -> float:
    """The mean, over steps that choose and those that don't, of the median of each kind.

    Args:
        times: of steps that choose at every ``every``-th turn, or, if ``share`` is below 1, at every second of these.
        every: steps of a run choose at every so-many-th only.
        share: part of the run in which they do.
    """
    if share < 1:
        chosen, plain = (
            median(s for turn, s in enumerate(times) if turn >= WARM_UP and (turn % (2 * every) == 0) is chooses)
            for chooses in (True, False)
        )
        return plain + (chosen - plain) * share / every
    kinds = [
        [seconds for turn, seconds in enumerate(times) if turn >= WARM_UP and turn % every == kind]
        for kind in range(every)
    ]
    known = [median(kind) for kind in kinds if kind]
    return sum(known) / len(known)
