"""Measures a backbone of a run, of timm, or of a file, by protocols."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from hardviews.console import Say, progress_bars, say
from hardviews.data.sources import ImageSource
from hardviews.data.sources.subset import Subset
from hardviews.data.sources.torchvision_sets import NAMES
from hardviews.errors import InputError, unknown
from hardviews.evaluation import protocols
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.cache import FeatureCache
from hardviews.evaluation.rng import seeded
from hardviews.launch.global_state import global_state_restored
from hardviews.models.baselines import beside
from hardviews.models.load import LoadedModel, check, load_model, preprocessing
from hardviews.models.vectors import on_device
from hardviews.options.evaluation import EvaluateOptions, split_names
from hardviews.setup.data import BY_NAME, Given, open_sources
from hardviews.setup.data_notices import shared_figures, warn_of_data
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.precision import device_type, fast_precision
from hardviews.views.pixels import RGB, Pixels

SPREADING = ("linear", "logistic")  # what sees a ViT's last blocks
SCENES = ("detection", "segmentation")  # whose data has its own test split

OnResult = Callable[[Mapping[str, float], Mapping[str, Any]], None]

Opened = tuple[ImageSource, ImageSource | None]


def evaluate(
    target: str, options: EvaluateOptions, settings: Mapping[str, Mapping[str, Any]], say: Say = say,
    on_result: OnResult = lambda _figures, _result: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measures a backbone by protocols, and adds the results to ``results.jsonl`` if it is a run's.

    Args:
        target: a run folder or a timm model's name; an existing folder wins.
        options: as parsed.
        settings: of every protocol asked for.
        say: takes lines about data sets that are left out, and files that can't be written.
        on_result: called after each data set with its figures, and with these and what they are of. Where a protocol
            fails, it still gets what those before it found.

    Returns:
        For every data set its figures by name, and what they are of.

    Raises:
        InputError: there is nothing to measure, or nothing to measure it on.
    """
    check_evaluation(options, settings)
    with seeded(0 if options.seed is None else options.seed):  # weights may be random
        subject = load_model(target, options.checkpoint, options.pretrained, options.image_size)
    return evaluate_model(subject, options, settings, say, on_result)


@global_state_restored()
def evaluate_model(
    subject: LoadedModel, options: EvaluateOptions, settings: Mapping[str, Mapping[str, Any]], say: Say = say,
    on_result: OnResult = lambda _figures, _result: None, given: Given = BY_NAME,
) -> list[dict[str, Any]]:  # fmt: skip
    """As ``evaluate``, of a model that is loaded, and on data that may be given as objects, which ``options`` names."""
    check_evaluation(options, settings)
    asked = {name: protocols.find(name) for name in settings}
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]  # never "auto" here
    ready = preprocessing(subject, options)
    results: list[dict[str, Any]] = []
    drawing = subject.seed if options.seed is None else options.seed
    with on_device(subject.backbone, fabric.device):
        backbone = subject.backbone.to(memory_format=torch.channels_last)
        for data, opened in benches(replace(options, seed=drawing), say, given, ready.form):
            figures: dict[str, float] = {}
            others: dict[str, Any] = {}
            try:
                with progress_bars() as progress:
                    bench = Bench(
                        backbone, data, opened, ready, fabric.autocast, options.batch_size, options.workers,
                        drawing, whole_if_small=options.crop is None,
                        blocks=options.blocks if set(SPREADING) & set(asked) else 0, cache=cache(subject, options),
                        progress=progress,
                    )  # fmt: skip
                    for name, protocol in asked.items():
                        figures |= dict(protocol(bench, **settings[name]))
                    others = beside(figures, bench, subject, options, settings.get("knn", {}), say)
            except InputError as error:
                if options.on is None:
                    raise
                say(f"left out: {data}: {error}")
            # Where a protocol fails, what was found before is not lost. After the bars, which a line would tear.
            finally:
                if figures:
                    results.append(figures | conditions(subject, bench, options, settings, precision) | others)
                    if subject.config:
                        append_result(RunFolder(Path(subject.name)), results[-1], say)
                    on_result(figures, results[-1])
    if not results:
        raise InputError(f"on: none of {options.on} is under {options.data_root}")
    return results


def check_evaluation(options: EvaluateOptions, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError if nothing could be measured with such options."""
    check(options)
    if options.blocks < 0:
        raise InputError(f"blocks: {options.blocks} must be at least 0")
    for name in sorted(set(SCENES) & set(settings)):
        if options.test_data is not None or options.on is not None:
            raise InputError(f"{name}: takes --data alone, in which its test split lies too")


def benches(
    options: EvaluateOptions, say: Say, given: Given = BY_NAME, form: Pixels = RGB
) -> Iterator[tuple[str, Callable[[], Opened]]]:
    """The data that is measured on, and what opens it: of ``--on``, all that is there."""
    if options.on is None:

        def opened() -> Opened:
            source, test = open_sources(options, must_be_labelled=False, given=given)
            warn_of_data(source, test, options.test_data, options.seed, form)
            return source, test

        yield str(options.data), opened
        return
    names = split_names(options.on.lower())
    for name in names:
        if name not in NAMES:
            raise unknown("data set", name, NAMES)
    for name in names:
        try:
            both = open_sources(replace(options, data=name, test_data=None), must_be_labelled=False)
        except InputError as error:
            say(f"left out: {error}")
        else:
            yield name, lambda both=both: both  # type: ignore[misc]


def cache(subject: LoadedModel, options: EvaluateOptions) -> FeatureCache | None:
    if options.cache == "off" or (options.cache is None and not subject.config):
        return None
    built = subject.built
    network = repr((built.architecture, sorted(built.arguments.items()), built.cifar_stem))
    return FeatureCache(Path(options.cache or Path(subject.name) / "features"), network)


def conditions(
    subject: LoadedModel,
    bench: Bench,
    options: EvaluateOptions,
    settings: Mapping[str, Mapping[str, Any]],
    precision: str,
) -> dict[str, Any]:
    """The data that figures are of, and how they were measured."""
    found: dict[str, Any] = {"target": subject.name, "data": bench.data, "settings": settings, "seed": bench.seed}
    found |= {"step": subject.step} if subject.config else {}
    found |= {"precision": precision, "image_size": bench.preprocessing.image_size}
    if "sources" in vars(bench):
        train, test = bench.sources
        beside = test.name if options.test_data else f"the test split of {test.name}"
        found |= {
            "crop": bench.ready(train).crop,
            "blocks": bench.blocks,
            "metric": bench.metric,
            "test_data": "a held-out tenth" if isinstance(test, Subset) else beside,
            "train_images": len(train),
            "test_images": len(test),
            "unreadable": sum(bench.left_out.values()),
            "train_unreadable": bench.left_out.get("features", 0),
            "test_unreadable": bench.left_out.get("test features", 0),
        }
        found |= shared_figures(train, test, options.test_data, bench.seed, bench.preprocessing.form)
    for name, (test_data, train_images, test_images) in bench.scenes.items():
        named = bench.data.partition(":")[0].lower() == test_data
        found |= {
            f"{name}_test_data": f"the test split of {test_data}" if named else test_data,
            f"{name}_train_images": train_images,
            f"{name}_test_images": test_images,
        }
    return found


def append_result(run: RunFolder, result: Mapping[str, Any], say: Say) -> None:
    try:
        run.append_result(result)
    except OSError as error:
        say(f"{run.results_file}: can't be written: {error.strerror}")
