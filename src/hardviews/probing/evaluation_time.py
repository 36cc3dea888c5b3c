"""Evaluates a few images before training: whether evaluation works, and how long all images will take."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hardviews.data.sources import ImageSource
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation import protocols
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import PIXELS, Features, Preprocessing, encode, encoded, evaluating, has_tokens
from hardviews.evaluation.protocols.knn import knn_accuracy
from hardviews.evaluation.rank import ROWS, effective_rank
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup.data import open_sources
from hardviews.setup.monitoring import drawn, leaves_one_out, preprocessing_of, resolve_knn
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream
from hardviews.wording import several

FEW, MANY = 32, 256  # images to encode: MANY where FEW take no longer than QUICK
QUICK = 1.0  # seconds
VECTORS = 1024  # of noise, on which comparisons and classifiers are timed in place of features
# Protocols whose time is estimated from a sample; the time of OF_PAIRS grows with training images x test images.
TIMED, OF_PAIRS = ("knn", "linear", "logistic", "retrieval", "clusters"), ("knn", "retrieval")


@dataclass(frozen=True)
class TrialMeasurement:
    """The time of one evaluation during training, estimated from a sample.

    Args:
        images: encoded for the estimate.
        each: seconds of one evaluation.
        pixels: seconds to compare raw pixels, once in a run.
    """

    images: int
    each: float
    pixels: float


def time_measurement(
    options: PretrainOptions,
    source: ImageSource,
    test: ImageSource | None,
    backbone: nn.Module,
    plan: ViewPlan,
    fabric: Fabric,
) -> TrialMeasurement:
    """Evaluates a batch of images as training will, and estimates the time for all images.

    Args:
        options: resolved.
        source: labelled.
        test: whose images are tested; None: those of ``source``, as ``knn_test`` says.
        backbone: on the device of ``fabric``.
        plan: of the method.
        fabric: of one process.

    Raises:
        InputError, RunError: no image can be read, or features are not finite.
        RuntimeError: anything else that fails on the device.
    """
    ready = preprocessing_of(options, plan)
    bank, seconds = sample_features(backbone, source, ready, fabric, options.workers)
    queries, seconds_of_query = bank, seconds
    if test is not None:
        queries, seconds_of_query = sample_features(backbone, test, ready, fabric, options.workers)
    options = resolve_knn(options, source)
    images = drawn(options, source, test)
    voting, asked = len(images.bank), len(images.queries)
    encoded = 0 if leaves_one_out(options, test) else asked  # the voters are encoded already
    knn_accuracy(bank, queries, options.knn_k, options.knn_temperature, fabric.device)
    effective_rank(queries.vectors)
    dimension = bank.vectors.shape[1]
    each = (voting * seconds + encoded * seconds_of_query) / (options.devices * options.nodes)  # which share the images
    each += comparing(dimension, voting, asked, fabric.device) + ranking(dimension, asked)
    pixels = comparing(ready.form.channels * PIXELS**2, voting, asked, fabric.device)
    return TrialMeasurement(len(bank.rows), each, pixels)


def time_evaluation(
    options: EvaluateOptions,
    settings: Mapping[str, Mapping[str, Any]],
    backbone: nn.Module,
    ready: Preprocessing,
    fabric: Fabric,
) -> tuple[float, list[str]]:
    """Seconds that ``hardviews evaluate`` will take for a backbone, and the protocols that this leaves out, whose time
    can't be estimated from a sample.

    Args:
        options, settings: of ``hardviews evaluate``.
        backbone: on the device of ``fabric``.
        ready: how the run's images are made ready.
        fabric: for its device and precision.

    Raises:
        InputError: it can't be measured so.
    """
    timed = {name: given for name, given in settings.items() if name in TIMED and not given.get("augment")}
    others = [name for name in settings if name not in timed]
    if not timed:
        return 0.0, others
    bench = Bench(
        backbone, str(options.data), lambda: open_sources(options, must_be_labelled=False), ready,
        batch_size=options.batch_size, workers=options.workers, blocks=options.blocks if has_tokens(backbone) else 0,
    )  # fmt: skip
    train, test = bench.sources
    found, seconds = sample_features(backbone, train, bench.ready(train), fabric, options.workers, bench.blocks)
    total = seconds * (len(train) + len(test))
    some = [Subset(part, spread(len(part), most)) for part, most in ((train, VECTORS), (test, VECTORS // 4))]
    vars(bench).update(sources=tuple(some), features=tuple(noise(len(part), found) for part in some))
    larger = len(train) / len(some[0])
    for name, given in timed.items():
        spent = elapsed(lambda: dict(protocols.find(name)(bench, **given)))  # noqa: B023  # called at once
        total += spent * larger * (len(test) / len(some[1]) if name in OF_PAIRS else 1.0)
    return total, others


def sample_features(
    backbone: nn.Module, source: ImageSource, ready: Preprocessing, fabric: Fabric, workers: int, blocks: int = 0
) -> tuple[Features, float]:
    """Features of a batch of images that are spread through a source, and the seconds that an image takes while
    ``workers`` processes read others.

    Raises:
        InputError: none of the images can be read.
    """
    for images in (FEW, MANY):
        some = Subset(source, spread(len(source), images))
        begun = time.perf_counter()
        with fabric.autocast():
            parts = list(encoded(backbone, some, ready, batch_size=MANY, blocks=blocks))
        whole = time.perf_counter() - begun
        if not parts:
            raise InputError(f"{source.name}: none of {several(len(some), 'image')} can be read")
        with fabric.autocast(), evaluating(backbone), torch.no_grad():
            forward = elapsed(lambda: encode(backbone, parts[0].images, blocks)[0].cpu())  # noqa: B023  # called at once
        if whole > QUICK:  # the first also chooses kernels and takes memory
            break
    vectors, rows = torch.cat([part.vectors for part in parts]), torch.cat([part.ids for part in parts])
    tokens = None if parts[0].tokens is None else torch.cat([part.tokens for part in parts if part.tokens is not None])
    labels = torch.zeros(len(rows), dtype=torch.int64) if some.labels is None else some.labels[rows]
    seconds = max(forward, (whole - forward) / workers) if workers else whole
    return Features(vectors, labels, rows, tokens), seconds / len(rows)


def comparing(dimension: int, bank: int, queries: int, device: torch.device) -> float:
    """Seconds in which so many queries are compared with a bank."""
    few, fewer = min(bank, VECTORS), min(queries, VECTORS)
    some = [Features(vectors(n, dimension), torch.arange(n) % 10, torch.arange(n)) for n in (few, fewer)]
    spent = elapsed(lambda: knn_accuracy(some[0], some[1], device=device))
    return spent * bank / few * queries / fewer


def ranking(dimension: int, vectors_: int) -> float:
    """Seconds in which the rank of so many vectors is found."""
    most = min(vectors_, ROWS)
    few = min(most, VECTORS)
    return elapsed(lambda: effective_rank(vectors(few, dimension))) * most / few


def spread(count: int, most: int) -> Tensor:
    """At most so many rows of a source, at equal distances."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def noise(count: int, like: Features) -> Features:
    """As many features of the same widths."""
    tokens = None if like.tokens is None else vectors(count, like.tokens.shape[1])
    rows = torch.arange(count)
    return Features(vectors(count, like.vectors.shape[1]), torch.full_like(rows, -1), rows, tokens)


def vectors(count: int, dimension: int) -> Tensor:
    return torch.randn(count, dimension, generator=stream(0, "noise"))


def elapsed(do: Callable[[], object]) -> float:
    """Seconds of what waits for the device itself."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def measurements(epochs: int, every: int) -> int:
    """How often a run is measured on the way: before its first step, every so many epochs, and at its end."""
    return 1 + -(-epochs // every) if every else 0
