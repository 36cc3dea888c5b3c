"""Exports a backbone that is not timm's: weights, a config.json, and code that loads them without hardviews."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from hardviews.networks.backbone_sources import make_backbone
from hardviews.networks.backbones import Built
from hardviews.networks.transformers_backbone import TransformersBackbone


class OtherExport(NamedTuple):
    """The contents of an exported folder and how to load it."""

    library: str  # that loads it, by its name on the Hub
    weights: Mapping[str, Tensor]  # the backbone's own tensors, not copies
    config: dict[str, Any]
    code: str
    load: Callable[[Path], nn.Module]  # from a folder with weights and config


def export_other(built: Built, images: Mapping[str, Any], features: int, file: str) -> OtherExport:
    """Exports a backbone from transformers, from a function, or given as an object.

    Args:
        built: the backbone.
        images: preprocessing, in timm's terms.
        features: D.
        file: name of the weights' file in the folder.
    """
    backbone = built.backbone
    if isinstance(backbone, TransformersBackbone):
        return _of_transformers(backbone, images, features)
    config = {"architecture": built.architecture, "model_args": built.arguments, "num_features": features, **images}
    named = built.architecture.removeprefix("object:")
    module, _, name = named.replace(":", ".").rpartition(".")
    arguments = ", ".join(f"{key}={value!r}" for key, value in built.arguments.items()) or (
        "..." if built.library == "object" else ""
    )
    code = (
        f"from safetensors.torch import load_file\nfrom {module} import {name}\n\n"
        f'model = {name}({arguments})\nmodel.load_state_dict(load_file("{file}"))\nmodel.eval()\n'
    )

    def load(folder: Path) -> nn.Module:
        # How an object was built is unknown; loading into a copy at least checks that the file is complete.
        again = (
            deepcopy(backbone)
            if built.library == "object"
            else make_backbone(
                built.architecture, images["input_size"][-1], False, built.arguments, images["input_size"][0]
            )
        )
        again.load_state_dict(load_file(folder / file))
        return again

    return OtherExport("pytorch", backbone.state_dict(), config, code, load)


def _of_transformers(backbone: TransformersBackbone, images: Mapping[str, Any], features: int) -> OtherExport:
    """The form that ``save_pretrained`` writes, with preprocessing added to the model's settings."""
    model = backbone.model
    config = {**model.config.to_dict(), "num_features": features, "images": dict(images)}
    config["architectures"] = [type(model).__name__]
    settings = "".join(f", {name}={value}" for name, value in backbone.settings.items())
    code = (
        "from transformers import AutoModel\n\n"
        'model = AutoModel.from_pretrained(".").eval()\n\n\n'
        f"def features(images):  # float32 [B, {backbone.channels}, S, S] to [B, D]\n"
        f"    found = model(pixel_values=images{settings})\n"
        f"    return {backbone.expression(images['input_size'][-1])}\n"
    )
    return OtherExport(
        "transformers", model.state_dict(), config, code, lambda folder: TransformersBackbone(str(folder), True)
    )
