"""Measures a backbone of a run, of timm, or of a file."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from torch import nn

from hardviews.commands.evaluate import EvaluateOptions
from hardviews.commands.runs import run_weights
from hardviews.commands.sources import open_sources
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.evaluation.features import Features, Preprocessing, extract
from hardviews.evaluation.knn import held_out, knn
from hardviews.networks.backbones import Stem, create_backbone
from hardviews.networks.weights import load_weights, read_weights
from hardviews.training.precision import device_type, fast_precision
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD
from hardviews.views.streams import stream


@dataclass(frozen=True)
class Subject:
    """What is measured, and how its images are made ready unless the user says otherwise."""

    name: str
    backbone: nn.Module
    preprocessing: Preprocessing
    seed: int = 0


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
    subject = run_subject(Path(target)) if Path(target).is_dir() else timm_subject(target, options, source)
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
    if options.checkpoint is not None and Path(target).is_dir():
        raise InputError(f"checkpoint: {target} is a run, which has its own; leave the option out")


def run_subject(folder: Path) -> Subject:
    """The backbone of a run, from its last checkpoint."""
    config, weights = run_weights(folder)
    network = {"stem": "auto", "pretrained": False, "keywords": {}} | config["backbone"]
    # Its weights are in the checkpoint: nothing is asked of timm's hub.
    stem: Stem = "imagenet" if network["pretrained"] and network["stem"] == "auto" else network["stem"]
    backbone = create_backbone(network["name"], config["image_size"], stem=stem, **network["keywords"])
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{folder}: the checkpoint does not fit config.yaml: {str(error).splitlines()[0]}") from error
    ready = Preprocessing(config["image_size"], tuple(config["mean"]), tuple(config["std"]))
    return Subject(str(folder), backbone, ready, config["seed"])


def timm_subject(name: str, options: EvaluateOptions, source: ImageSource) -> Subject:
    """A timm model, with its pretrained weights, those of a file, or random ones."""
    weights = None if options.checkpoint is None else read_weights(Path(options.checkpoint), "checkpoint")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    size = options.image_size or (config.input_size[-1] if config and config.input_size else 224)
    if config is None and not name.startswith(("local-dir:", "hf-hub:", "hf_hub:")) and ("/" in name or "." in name):
        raise InputError(f"{name} is neither a run folder nor a timm model")
    backbone = create_backbone(name, size, stem="imagenet", pretrained=options.pretrained and weights is None)
    if weights is not None:
        name = f"checkpoint: {options.checkpoint}"
        match = load_weights(backbone, weights, name)
        if match.missing:  # half a network would give a figure that means nothing
            raise InputError(f"{name} does not fit: {match}")
    found: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", {})
    ready = Preprocessing(
        size,
        tuple(found.get("mean", IMAGENET_MEAN)),
        tuple(found.get("std", IMAGENET_STD)),
        float(found.get("crop_pct") or 0.875),
    )
    return Subject(name, backbone, ready)


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
