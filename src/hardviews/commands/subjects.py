"""Backbones that are measured, embedded with and exported: of a run, of timm, or of a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from hardviews.commands.runs import run_weights
from hardviews.errors import InputError
from hardviews.evaluation.features import Preprocessing
from hardviews.networks.backbones import Stem, create_backbone
from hardviews.networks.weights import load_weights, read_weights
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Subject:
    """A backbone, and how its images are made ready unless the user says otherwise."""

    name: str
    backbone: nn.Module
    preprocessing: Preprocessing
    seed: int = 0


def find_subject(
    target: str, checkpoint: str | None = None, pretrained: bool = True, image_size: int | None = None
) -> Subject:
    """The backbone of a run, or a timm model; an existing folder wins.

    Args:
        target: a run folder or a timm model's name.
        checkpoint: for a timm model: its weights from this file instead of the hub.
        pretrained: for a timm model: false leaves its weights random.
        image_size: for a timm model: the size it is made for; by default that it was trained for.

    Raises:
        InputError: there is no such backbone, or its weights do not fit.
    """
    if not Path(target).is_dir():
        return timm_subject(target, checkpoint, pretrained, image_size)
    if checkpoint is not None:
        raise InputError(f"checkpoint: {target} is a run, which has its own; leave the option out")
    return run_subject(Path(target))


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


def timm_subject(name: str, checkpoint: str | None, pretrained: bool, image_size: int | None) -> Subject:
    """A timm model, with its pretrained weights, those of a file, or random ones."""
    weights = None if checkpoint is None else read_weights(Path(checkpoint), "checkpoint")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    size = image_size or (config.input_size[-1] if config and config.input_size else 224)
    if config is None and not name.startswith(("local-dir:", "hf-hub:", "hf_hub:")) and ("/" in name or "." in name):
        raise InputError(f"{name} is neither a run folder nor a timm model")
    backbone = create_backbone(name, size, stem="imagenet", pretrained=pretrained and weights is None)
    if weights is not None:
        name = f"checkpoint: {checkpoint}"
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
