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
from hardviews.commands.subjects import check, find_subject, preprocessing
from hardviews.data.sources import ImageSource
from hardviews.evaluation.features import Features, extract
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
    check(options)
    source, test = open_sources(options)
    subject = find_subject(target, options.checkpoint, options.pretrained, options.image_size)
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]  # never "auto" here
    ready = preprocessing(subject, options, source)
    backbone = subject.backbone.to(fabric.device)

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
