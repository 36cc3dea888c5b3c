"""The backbone that a run began with, made again from its settings and seed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hardviews.errors import InputError
from hardviews.launch.global_state import global_state_restored
from hardviews.networks.backbones import create_backbone
from hardviews.networks.weights import load_weights
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.setup.initial_weights import start_of
from hardviews.views.pixels import Pixels
from hardviews.views.streams import stream


@global_state_restored()
def untrained_backbone(config: Mapping[str, Any]) -> nn.Module:
    """A run's backbone with the weights of before its first step, as ``setup.defaults`` made it.

    Args:
        config: the run's ``config.yaml``.

    Raises:
        InputError: it can't be made again: its weights are gone, or it was given as an object.
    """
    network = BackboneOptions(**config["backbone"])
    if network.name.startswith("object:"):
        raise InputError("the backbone was given as an object, which the run folder does not hold")
    size, form = int(config["image_size"]), Pixels.from_config(config)
    options = PretrainOptions(init=config.get("init"), backbone=network, seed=int(config.get("seed", 0)))
    torch.manual_seed(stream(options.seed, "weights").initial_seed())
    start = start_of(options, size)
    backbone = create_backbone(
        network.name, size, stem=network.stem if start is None else start.stem, pretrained=network.pretrained,
        image_channels=form.channels, **network.keywords,
    )  # fmt: skip
    if start is not None and start.weights is not None:
        load_weights(backbone, start.weights, f"init: {options.init}")
    return backbone
