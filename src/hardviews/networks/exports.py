"""A backbone in other libraries' formats: timm's config.json, torchvision's weight names, ONNX."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.networks.backbone_sources import torchvision_arguments
from hardviews.networks.backbones import Built, patch_size
from hardviews.networks.quiet import quiet

_RESNETS = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)
# timm's architecture name: torchvision's model of the same structure.
TORCHVISION = {name: name for name in _RESNETS} | {
    f"vit_{size}_patch{patch}_{pixels}": f"vit_{size[0]}_{patch}"
    for size, patch, pixels in (
        *(("base", 16, 224), ("base", 16, 384), ("base", 32, 224), ("base", 32, 384)),
        *(("large", 16, 224), ("large", 16, 384), ("large", 32, 224), ("large", 32, 384), ("huge", 14, 224)),
    )
}

# timm's names of ViT weights: torchvision's. Both store queries, keys and values in one matrix, in this order.
_VIT_NAMES = {
    r"^cls_token$": "class_token",
    r"^pos_embed$": "encoder.pos_embedding",
    r"^patch_embed\.proj\.": "conv_proj.",
    r"^norm\.": "encoder.ln.",
    r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
    r"\.norm([12])\.": r".ln_\1.",
    r"\.attn\.qkv\.": ".self_attention.in_proj_",
    r"\.attn\.proj\.": ".self_attention.out_proj.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.3.",
}

OPSET = 18
BATCH = (1 << 31) - 1  # upper bound: without one, torch 2.6 fixes the batch axis
# Protocol buffers are limited to 2 GiB; larger weights go to a file beside the graph.
ONNX_BYTES = 1800 << 20


def weights_of(backbone: nn.Module) -> dict[str, Tensor]:
    """A backbone's weights and buffers, copied as by ``apart``."""
    return apart(backbone.state_dict())


def apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors to contiguous memory that none of them shares."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


def timm_config(built: Built, images: Mapping[str, Any], features: int) -> dict[str, Any]:
    """The contents of timm's ``config.json``.

    Args:
        built: the backbone.
        images: ``input_size``, ``mean``, ``std``, ``crop_pct``, ``crop_mode`` and ``interpolation``.
        features: D.
    """
    found: Mapping[str, Any] = getattr(built.backbone, "pretrained_cfg", {})
    pool = getattr(built.backbone, "global_pool", "")
    pool = pool if isinstance(pool, str) else getattr(pool, "pool_type", "")
    any_size = bool(built.arguments.get("dynamic_img_size"))
    return {
        "architecture": built.architecture,
        "num_classes": 0,
        "num_features": features,
        **({"global_pool": pool} if pool else {}),
        "model_args": built.arguments,
        "pretrained_cfg": {
            **images,
            "fixed_input_size": bool(found.get("fixed_input_size")) and not any_size,
            "custom_load": False,
            "num_classes": 0,
            "pool_size": None,
            # Where it is named, timm 1.0.26 takes it for RGB's and leaves it random.
            "first_conv": found.get("first_conv") if images["input_size"][0] == 3 else None,
            "classifier": found.get("classifier"),
        },
    }


class ForTorchvision(NamedTuple):
    """Weights for ``torchvision.models.<name>(**arguments)`` with its ``classifier`` replaced by the identity.

    For a torchvision backbone, ``classifier`` is "": ``remove_head`` finds it.
    """

    name: str
    arguments: dict[str, Any]
    classifier: str
    weights: Mapping[str, Tensor]  # the backbone's own, not copies


def for_torchvision(built: Built, image_size: int) -> ForTorchvision:
    """Converts a backbone's weights to torchvision's names.

    Raises:
        InputError: torchvision has no model of this architecture, or none for images of this size.
    """
    if built.library == "torchvision":
        own = built.architecture.partition(":")[2]
        return ForTorchvision(
            own, torchvision_arguments(own, image_size) | built.arguments, "", built.backbone.state_dict()
        )
    name = TORCHVISION.get(built.architecture)
    if built.library != "timm":
        raise InputError(f"format: torchvision has no {built.architecture}; safetensors and onnx take any backbone")
    if name is None:
        raise InputError(
            f"format: torchvision has no {built.architecture} with timm's structure; it has "
            f"{', '.join(sorted(TORCHVISION))}; timm, safetensors and onnx take any backbone"
        )
    weights = built.backbone.state_dict()
    if not name.startswith("vit"):
        return ForTorchvision(name, {}, "fc", weights)
    tokens, patch = weights["pos_embed"].shape[1] - 1, patch_size(built.backbone)
    pixels = round(tokens**0.5) * patch
    if pixels != image_size:
        raise InputError(f"image-size: torchvision's {name} takes images of one size, here {pixels}, not {image_size}")
    arguments = {} if pixels == 224 else {"image_size": pixels}
    return ForTorchvision(name, arguments, "heads", {vit_name(key): value for key, value in weights.items()})


def check_timm(built: Built) -> None:
    """Raises InputError if no timm model takes the backbone's weights."""
    if built.library != "timm":
        others = "torchvision, safetensors and onnx" if built.library == "torchvision" else "safetensors and onnx"
        raise InputError(f"format: timm has no {built.architecture}; export it as {others}")


def check_torchvision(built: Built, image_size: int) -> None:
    """Raises InputError if no torchvision model takes the backbone's weights, as ``for_torchvision`` does, or if
    torchvision's model of this name has another structure."""
    there = for_torchvision(built, image_size)
    if built.library == "torchvision":
        return
    with torch.device("meta"):
        model = getattr(torchvision.models, there.name)(**there.arguments)
        setattr(model, there.classifier, nn.Identity())
    wanted, found = (
        {name: tuple(value.shape) for name, value in w.items()} for w in (model.state_dict(), there.weights)
    )
    if built.cifar_stem:  # the model card has the lines that build it
        del wanted["conv1.weight"], found["conv1.weight"]
    name = next((name for name in {**wanted, **found} if wanted.get(name) != found.get(name)), None)
    if name is None:
        return
    shapes = ["x".join(map(str, some[name])) if name in some else "missing" for some in (wanted, found)]
    sizes = ("img_size", "dynamic_img_size")  # torchvision's models have these too
    given = [f"{key} {value}" for key, value in built.arguments.items() if key not in sizes]
    what = f"does not have this backbone's {', '.join(given)}" if given else "has another structure"
    raise InputError(
        f"format: torchvision's {there.name} {what}: its {name} is {shapes[0]}, and here {shapes[1]}; "
        "give --format timm, safetensors or onnx"
    )


def vit_name(name: str) -> str:
    """Translates the name of a ViT weight from timm to torchvision."""
    for timms, torchvisions in _VIT_NAMES.items():
        name = re.sub(timms, torchvisions, name)
    return name


def write_onnx(backbone: nn.Module, image_size: int, file: Path, channels: int = 3) -> None:
    """Writes an ONNX graph of ``OPSET``: ``images`` float32 ``[batch, C, S, S]`` to ``features`` ``[batch, D]``.

    Raises:
        InputError: torch's exporter does not support an operation of the backbone.
    """
    # With an example batch of one, the exporter would fix the batch size at one.
    example = torch.zeros(2, channels, image_size, image_size)
    size = sum(value.numel() * value.element_size() for value in backbone.state_dict().values())
    try:
        with quiet(logging.ERROR):
            torch.onnx.export(
                backbone.eval(), (example,), str(file), input_names=["images"], output_names=["features"],
                opset_version=OPSET, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch", max=BATCH)},),
                external_data=size > ONNX_BYTES, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter's own wrappers share no other base class
        cause = error.__cause__ or error
        line = " ".join(str(cause).split())[:200]
        raise InputError(f"format: torch can't export this backbone to ONNX: {line or type(cause).__name__}") from error
