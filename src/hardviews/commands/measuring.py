"""Measures a backbone of a run, of timm, or of a file."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from hardviews.commands.bars import shown_progress
from hardviews.commands.evaluate import EvaluateOptions, listed
from hardviews.commands.notices import shared_figures, tell
from hardviews.commands.sources import open_sources
from hardviews.commands.subjects import Subject, check, find_subject, preprocessing
from hardviews.data.sources import ImageSource
from hardviews.data.sources.subset import Subset
from hardviews.data.sources.torchvision_sets import NAMES
from hardviews.errors import InputError, unknown
from hardviews.evaluation import protocols
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.cache import FeatureCache
from hardviews.evaluation.seeded import seeded
from hardviews.training.precision import device_type, fast_precision
from hardviews.training.run_folder import RunFolder

SPREADING = ("linear", "logistic")  # what sees a ViT's last blocks
SCENES = ("detection", "segmentation")  # whose data has its own test split

Opened = tuple[ImageSource, ImageSource | None]


def evaluate(
    target: str, options: EvaluateOptions, settings: Mapping[str, Mapping[str, Any]], as_json: bool
) -> list[dict[str, Any]]:
    """Measures, prints, and of a run writes down.

    Args:
        target: a run folder or a timm model's name; an existing folder wins.
        options: as parsed.
        settings: of every protocol asked for.
        as_json: print JSON on standard output, and everything else on standard error.

    Returns:
        Of every data set the figures by name, and what they are of.

    Raises:
        InputError: there is nothing to measure, or nothing to measure it on.
    """
    console = Console(stderr=as_json)
    check(options)
    if options.blocks < 0:
        raise InputError(f"blocks: {options.blocks} must be at least 0")
    asked = {name: protocols.find(name) for name in settings}
    seed = 0 if options.seed is None else options.seed
    for name in sorted(set(SCENES) & set(asked)):
        if options.test_data is not None or options.on is not None:
            raise InputError(f"{name}: takes --data alone, in which its test split lies too")
    with seeded(seed):  # of weights that are random
        subject = find_subject(target, options.checkpoint, options.pretrained, options.image_size)
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]  # never "auto" here
    backbone = subject.backbone.to(fabric.device).to(memory_format=torch.channels_last)
    ready = preprocessing(subject, options)
    results: list[dict[str, Any]] = []
    drawing = subject.seed if options.seed is None else options.seed
    for data, opened in benches(replace(options, seed=drawing), console):
        figures: dict[str, float] = {}
        with shown_progress() as progress:
            bench = Bench(
                backbone, data, opened, ready, fabric.autocast, options.batch_size, options.workers,
                drawing, whole_if_small=options.crop is None,
                blocks=options.blocks if set(SPREADING) & set(asked) else 0, cache=cache(subject, options),
                progress=progress,
            )  # fmt: skip
            try:
                for name, protocol in asked.items():
                    figures |= dict(protocol(bench, **settings[name]))
            except InputError as error:
                if options.on is None:
                    raise
                say(console, f"left out: {data}: {error}")
            finally:  # where a protocol fails, what those before it found is not lost
                if figures:
                    results.append(figures | facts(subject, bench, options, settings, precision))
                    if subject.config:
                        write_down(RunFolder(Path(target)), results[-1], console)
                    if not as_json and options.on is None:
                        show(figures, results[-1], console)
    if not results:
        raise InputError(f"on: none of {options.on} is under {options.data_root}")
    if as_json:
        print(json.dumps(results[0] if options.on is None else results, indent=2))
    elif options.on is not None:
        show_table(subject.name, results, console)
    return results


def benches(options: EvaluateOptions, console: Console) -> Iterator[tuple[str, Callable[[], Opened]]]:
    """The data that is measured on, and what opens it: of ``--on``, all that is there."""
    if options.on is None:

        def opened() -> Opened:
            source, test = open_sources(options, must_be_labelled=False)
            tell(source, test, options.test_data, options.seed)
            return source, test

        yield str(options.data), opened
        return
    names = listed(options.on.lower())
    for name in names:
        if name not in NAMES:
            raise unknown("data set", name, NAMES)
    for name in names:
        try:
            both = open_sources(replace(options, data=name, test_data=None), must_be_labelled=False)
        except InputError as error:
            say(console, f"left out: {error}")
        else:
            yield name, lambda both=both: both  # type: ignore[misc]


def cache(subject: Subject, options: EvaluateOptions) -> FeatureCache | None:
    if options.cache == "off" or (options.cache is None and not subject.config):
        return None
    built = subject.built
    network = repr((built.architecture, sorted(built.arguments.items()), built.cifar_stem))
    return FeatureCache(Path(options.cache or Path(subject.name) / "features"), network)


def facts(
    subject: Subject, bench: Bench, options: EvaluateOptions, settings: Mapping[str, Mapping[str, Any]], precision: str
) -> dict[str, Any]:
    """What figures are of, and how they were made."""
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
            "unreadable": bench.unreadable,
        }
        found |= shared_figures(train, test, options.test_data, bench.seed)
    for name, (test_data, train_images, test_images) in bench.scenes.items():
        named = bench.data.partition(":")[0].lower() == test_data
        found |= {
            f"{name}_test_data": f"the test split of {test_data}" if named else test_data,
            f"{name}_train_images": train_images,
            f"{name}_test_images": test_images,
        }
    return found


def write_down(run: RunFolder, result: Mapping[str, Any], console: Console) -> None:
    try:
        run.append_result(result)
    except OSError as error:
        say(console, f"{run.results_file}: can't be written: {error.strerror}")


def say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def show(figures: Mapping[str, float], result: Mapping[str, Any], console: Console) -> None:
    of = f"{result['target']} on {result['data']}"
    if "test_images" in result:
        of += f": {result['train_images']:,} training and {result['test_images']:,} test images ({result['test_data']})"
    width = max(map(len, figures))
    say(console, of)
    for name in SCENES:
        if f"{name}_test_images" in result:
            train, test, test_data = (result[f"{name}_{key}"] for key in ("train_images", "test_images", "test_data"))
            say(console, f"  {name}: {train:,} training and {test:,} test images ({test_data})")
    for name, value in figures.items():
        say(console, f"  {name:{width}}  {protocols.as_text(name, value)}")
    if result.get("unreadable"):
        say(console, f"  {result['unreadable']:,} images could not be read and were left out")


def show_table(name: str, results: list[dict[str, Any]], console: Console) -> None:
    """One row for every data set, one column for every figure but those that were chosen on the way."""
    rows = [{key.replace(f"_{row['metric']}", ""): value for key, value in row.items()} for row in results]
    figures = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float))
    columns = [key for key in figures if not key.endswith(protocols.CHOSEN) and key != "crop"]
    title = f"{name}, each measured on its test split"
    table = Table("data", "train images", "test images", "metric", *columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(
            row["data"], f"{row['train_images']:,}", f"{row['test_images']:,}", row["metric"].replace("_", " "),
            *(protocols.as_text(key, row[key]) if key in row else "" for key in columns),
        )  # fmt: skip
    # A pipe has no width that the table would have to be squeezed into.
    (console if console.is_terminal else Console(file=console.file, width=200)).print(table)
