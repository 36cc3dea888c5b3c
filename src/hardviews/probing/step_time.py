"""The time of a step of several arms, measured side by side, and of everything else in their runs."""

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
from hardviews.probing.evaluation_time import time_evaluation, time_measurement
from hardviews.setup.data import create_loader, open_sources
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.monitoring import preprocessing_of
from hardviews.setup.step import create_step
from hardviews.training.schedules import ResolutionSchedule
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch

WARM_UP = 2  # steps: memory is taken, kernels are chosen
AHEAD = 2  # batches that every worker holds
LONGEST = 120.0  # seconds after which no further round of slow steps is begun


@dataclass(frozen=True)
class Besides:
    """Seconds of a run outside of its steps.

    Args:
        start: to start a process, open the data and build the network.
        loading: to decode small sets into memory and choose kernels.
        measurement: of each evaluation during training; 0 without labels.
        pixels: to compare raw pixels, once.
        evaluation: of the evaluation at the end.
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
    """The time of a step.

    Args:
        steps: seconds of a step of every arm, with views of full size.
        data: seconds that the loader takes for a batch.
        steps_per_epoch: of all arms.
        beside: whether workers load in parallel with the step, so that the longer of the two counts.
        besides: seconds of a run of any arm outside of its steps.
        small: of arms that first train on smaller views: the part of the run, and seconds of such a step.
    """

    steps: dict[str, float]
    data: float
    steps_per_epoch: int
    beside: bool = True
    besides: dict[str, Besides] = field(default_factory=dict)
    small: dict[str, tuple[float, float]] = field(default_factory=dict)

    def epoch(self, arm: str) -> float:
        """Seconds of an arm's epoch, on average over its run."""
        part, small = self.small.get(arm, (0.0, 0.0))
        return self.steps_per_epoch * ((1 - part) * self._loaded(self.steps[arm]) + part * self._loaded(small))

    def _loaded(self, step: float) -> float:
        """Seconds of a step and what its data takes besides."""
        return max(step, self.data) if self.beside else step + self.data


def time_arms(
    arms: Mapping[str, PretrainOptions], rounds: int, evaluation: EvaluateOptions | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None, begun: float | None = None,
) -> Timing:  # fmt: skip
    """Medians over ``rounds`` steps of every arm, taken in turns on the same batches of real images, and the rest of a
    run: this start, and evaluation of a sample. For several devices it uses one, with its share of the batch;
    communication is not included.

    Args:
        arms: options of every arm.
        rounds: steps that are timed.
        evaluation: how runs are evaluated at their end; None: not at all.
        settings: of every protocol of that evaluation.
        begun: ``time.time()`` before this process was started; by default now.

    Raises:
        InputError: an arm can't be built or evaluated.
    """
    begun = time.time() if begun is None else begun
    alone = {name: replace(arm, devices=1, nodes=1, batch_size=_share(arm)) for name, arm in arms.items()}
    first = next(iter(alone.values()))
    source, test = open_sources(first)
    resolved = {next(iter(alone)): resolve_defaults(first, source)}
    options, _ = resolved[next(iter(alone))]
    fabric = create_fabric(options)
    start = time.time() - begun
    loader = create_loader(options, source, fabric)
    loading = time.time() - begun - start
    resolved |= {name: resolve_defaults(arm, source) for name, arm in alone.items() if name not in resolved}
    steps = {
        # At rate 0, so that an arm that would diverge can be timed too.
        name: create_step(
            replace(arm, lr=0.0, min_lr=0.0, select_from=0.0, select_until=1.0), method, fabric, loader.steps_per_epoch
        )
        for name, (arm, method) in resolved.items()
    }
    phases = {name: phases_of(arm) for name, arm in alone.items()}
    # Every kind of step is there, once the networks are warm.
    least = WARM_UP + max(2 * arm.score_every for arm in alone.values())
    turns = max(WARM_UP + rounds, least)
    for name, step in steps.items():
        if step.scorer.exit is not None:
            step.scorer.exit.exit_soon()
        if selecting_part(alone[name]) < 1:  # both kinds of steps are timed
            step.selecting = range(0, turns, 2 * alone[name].score_every)
    batches = moved(loader.batches(0), fabric.device)
    spent = {name: {size: list[float]() for size in phases[name]} for name in steps}
    end = time.perf_counter() + LONGEST
    for turn in range(turns):
        images = next(batches)
        for name, step in steps.items():
            for size, times in spent[name].items():
                step.resolution = ResolutionSchedule(size, turns)
                times.append(_seconds(lambda: _take(step, images, turn), fabric.device))  # noqa: B023  # called at once
        if turn >= least and time.perf_counter() > end:
            break
    data = seconds_to_make(batches, options.workers, rounds)
    medians = {
        name: {size: _typical(times, alone[name], *phases[name][size]) for size, times in of_sizes.items()}
        for name, of_sizes in spent.items()
    }
    besides, known = {}, dict[str, dict[str, Any]]()
    for name, (arm, method) in resolved.items():
        typical = medians[name]
        warm_up = max(sum(sum(times[:WARM_UP]) - WARM_UP * typical[size] for size, times in spent[name].items()), 0.0)
        network = repr((arm.backbone, arm.image_size, arm.crop, bool(arm.knn_epochs)))
        if network not in known:  # most arms differ in their views alone
            known[network] = _measuring(arm, method, source, test, evaluation, settings or {}, fabric)
        besides[name] = Besides(start, loading + warm_up, **known[network])
    per_epoch = len(source) // next(iter(arms.values())).images_per_step
    full = {name: typical[1.0] for name, typical in medians.items()}
    small = {
        name: (arm.full_resolution_from, medians[name][arm.train_resolution])
        for name, arm in alone.items()
        if arm.train_resolution < 1
    }
    return Timing(full, data, per_epoch, options.workers > 0, besides, small)


def phases_of(options: PretrainOptions) -> dict[float, tuple[float, float]]:
    """The sizes of views that a run trains on, as parts of the full one, and the part of the run of each: from,
    until."""
    full_from = options.full_resolution_from if options.train_resolution < 1 else 0.0
    phases = {1.0: (full_from, 1.0)}
    return phases if options.train_resolution == 1 else phases | {options.train_resolution: (0.0, full_from)}


def selecting_part(options: PretrainOptions, begin: float = 0.0, end: float = 1.0) -> float:
    """The part of the steps between two parts of a run that may choose views."""
    if begin == end:
        return 0.0
    return max(min(options.select_until, end) - max(options.select_from, begin), 0.0) / (end - begin)


def _measuring(
    options: PretrainOptions, method: Method[Any], source: ImageSource, test: ImageSource | None,
    evaluation: EvaluateOptions | None, settings: Mapping[str, Mapping[str, Any]], fabric: Fabric,
) -> dict[str, Any]:  # fmt: skip
    """The fields of ``Besides`` that evaluation takes."""
    backbone = method.get_submodule(method.evaluated)
    found: dict[str, Any] = {}
    if source.labels is not None and options.knn_epochs:
        trial = time_measurement(options, source, test, backbone, method.plan, fabric)
        found = {"measurement": trial.each, "pixels": trial.pixels}
    if evaluation is not None:
        ready = preprocessing_of(options, method.plan)
        seconds, unknown = time_evaluation(evaluation, settings, backbone, ready, fabric)
        found |= {"evaluation": seconds, "unknown": tuple(unknown)}
    return found


def seconds_to_make(batches: Iterator[ImageBatch], workers: int, rounds: int, longest: float = inf) -> float:
    """Seconds that a loader takes for a batch: the mean over ``rounds`` batches, or fewer where time runs out.

    Args:
        batches: of the loader, whose workers have prefetched some.
        workers: number of workers.
        rounds: batches to time.
        longest: seconds after which no further batch is timed.
    """
    for _ in range(AHEAD * workers):  # prefetched
        next(batches)
    begun, spent, made = time.perf_counter(), 0.0, 0
    while made < rounds and spent <= longest:
        next(batches)
        made, spent = made + 1, time.perf_counter() - begun
    return spent / made


def _share(arm: PretrainOptions) -> int:
    """Images of a step on one device; at least two a forward, since BN here has no other devices' images."""
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


def _typical(times: Sequence[float], options: PretrainOptions, begin: float, end: float) -> float:
    """The mean, over steps that choose and those that don't, of the median of each kind.

    Args:
        times: of steps that choose at every ``score_every``-th turn, or, if a part of the run chooses nothing, at every
            second of these.
        options: of the run.
        begin, end: the part of the run that has such steps.
    """
    every = options.score_every
    if selecting_part(options) < 1:
        share = selecting_part(options, begin, end)
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
