"""Where ``--init`` takes the backbone's weights from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import Tensor

from hardviews.errors import InputError
from hardviews.networks.backbone_sources import library_of
from hardviews.networks.backbones import Stem, create_backbone
from hardviews.networks.weights import bare_name, read_weights
from hardviews.options.pretraining import PretrainOptions
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.output.run_weights import run_weights


class Start(NamedTuple):
    """The initial weights of a backbone."""

    weights: Mapping[str, Tensor] | None  # None where a checkpoint is loaded later
    known: Mapping[str, Any]  # mean and std that they were trained with, where known
    stem: Stem  # of their ResNet, or as given


def start_of(options: PretrainOptions, image_size: int) -> Start | None:
    """The weights that ``--init`` names; None without ``--init``. A run that resumes loads none: its own checkpoint has
    everything, even if the source is gone.

    Raises:
        InputError: ``--init`` names no weights.
    """
    init, stem = options.init, options.backbone.stem
    if init is None:
        return None
    if options.extend is not None:  # the extended run's checkpoint holds all
        return Start(None, {}, stem)
    run = RunFolder(Path(options.out)) if options.out else None
    if run and run.checkpoints.last.exists():
        config = run.config()
        return Start(None, config, config["backbone"].get("stem", stem) if stem == "auto" else stem)
    known: Mapping[str, Any] = {}
    if Path(init).is_dir():
        known, weights, _ = run_weights(Path(init))
    elif Path(init).exists():
        weights = read_weights(Path(init), "init")
    elif library_of(init) in ("torchvision", "transformers") or timm.is_model(init):
        source = create_backbone(init, image_size, stem="imagenet", pretrained=True)
        known, weights = getattr(source, "pretrained_cfg", {}), source.state_dict()
    else:
        raise InputError(f"init: {init} is neither a run folder, nor a file, nor a model of timm, torchvision: or hf:")
    first = {bare_name(name): value for name, value in weights.items()}.get("conv1.weight")
    if stem == "auto" and first is not None and options.backbone.name.startswith("resnet"):
        stem = "cifar" if first.shape[-1] == 3 else "imagenet"
    return Start(weights, known, stem)
