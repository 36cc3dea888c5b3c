"""Measures a backbone of a run, of timm, or of a file."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress

from hardviews.commands.evaluate import EvaluateOptions
from hardviews.commands.sources import open_sources
from hardviews.commands.subjects import Subject, find_subject
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.evaluation.features import Features, Preprocessing, extract
from hardviews.evaluation.knn import held_out, knn
from hardviews.training.precision import device_type, fast_precision
from hardviews.views.streams import stream


def evaluate(target: str, options: EvaluateOptions, as_json: bool) -> dict[str, float]:
    """Measures and prints.

    Args:
        target: a run folder or a timm model's name; an existing folder wins.
        options: as parsed.
        as_json: print JSON on standard output, and everything else on standard error.

    Returns:
        The figures by name.

    Raises:
        InputError: there is nothing to measure, or nothing to measure it on.
    """
    console = Console(stderr=as_json)
    check(target, options)
    source, test = open_sources(options)
    subject = find_subject(target, options.checkpoint, options.pretrained, options.image_size)
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]  # never "auto" here
    backbone = subject.backbone.to(fabric.device)
    ready = preprocessing(subject, options, source)

    def features(of: ImageSource, what: str) -> Features:
        task = progress.add_task(what, total=len(of))
        with fabric.autocast():
            return extract(
                backbone, of, ready, batch_size=options.batch_size, workers=options.workers,
                on_batch=lambda count: progress.advance(task, count),
            )  # fmt: skip

    with Progress(console=console, transient=True) as progress:
        bank = features(source, "features")
        if test is None:
            seed = subject.seed if options.seed is None else options.seed
            rows, query_rows = held_out(len(bank.labels), stream(seed, "held-out"))
            bank, queries = bank[rows], bank[query_rows]
        else:
            queries = features(test, "test features")
    ks = options.knn_k if isinstance(options.knn_k, list) else [options.knn_k]
    figures = dict(knn(bank, queries, ks, options.knn_temperature))
    left_out = sum(map(len, (source, test) if test else (source,))) - len(bank.labels) - len(queries.labels)
    facts = {
        "target": subject.name,
        "data": source.name,
        "test_data": test.name if test else "a held-out tenth",
        "bank": len(bank.labels),
        "queries": len(queries.labels),
        "unreadable": left_out,
    }
    show(figures, facts, console, as_json)
    return figures


def check(target: str, options: EvaluateOptions) -> None:
    """Options that no measurement can work with."""
    if options.batch_size < 1 or options.workers < 0:
        raise InputError(f"batch-size {options.batch_size} and workers {options.workers} must be at least 1 and 0")
    if options.crop is not None and not 0 < options.crop <= 1:
        raise InputError(f"crop: {options.crop} must be above 0 and at most 1")
    if options.image_size is not None and options.image_size < 1:
        raise InputError(f"image-size: {options.image_size} must be at least 1")


def preprocessing(subject: Subject, options: EvaluateOptions, source: ImageSource) -> Preprocessing:
    """The subject's, but for what the user says; small images are not cropped."""
    ready = subject.preprocessing
    return Preprocessing(
        options.image_size or ready.image_size,
        options.mean or ready.mean,
        options.std or ready.std,
        options.crop or (1.0 if source.native_size else ready.crop),
    )


def show(figures: Mapping[str, float], facts: Mapping[str, Any], console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**figures, **facts}, indent=2))
        return
    lines = [
        f"{facts['target']}: {facts['queries']:,} images of {facts['test_data']} by {facts['bank']:,} neighbours of "
        f"{facts['data']}",
        *(f"  {name}  {value:.2%}" for name, value in figures.items()),
    ]
    if facts["unreadable"]:
        lines.append(f"  {facts['unreadable']:,} images could not be read and were left out")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
