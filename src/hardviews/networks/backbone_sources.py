"""Backbones from other sources than timm: torchvision, Hugging Face transformers, or your own function."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import torchvision
from torch import nn

from hardviews.errors import InputError, unknown
from hardviews.networks.transformers_backbone import (
    TransformersBackbone,
    channels_of,
    one_line,
    processor_images,
    read_configuration,
)
from hardviews.networks.weights import load_weights
from hardviews.views.plan import whole_patches
from hardviews.wording import several

Library = Literal["timm", "torchvision", "transformers", "function", "object"]
PREFIXES: dict[str, Library] = {"torchvision:": "torchvision", "hf:": "transformers", "object:": "object"}

# GoogLeNet and Inception return auxiliary logits in training, which no loss here uses.
_NO_AUXILIARY = {"aux_logits": False, "init_weights": True}
_TORCHVISION_DEFAULTS = {"googlenet": _NO_AUXILIARY, "inception_v3": _NO_AUXILIARY}


def library_of(name: str) -> Library:
    """The source of a backbone's name: ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``, ``package.module:function``, or a
    timm name."""
    if name.startswith(("local-dir:", "hf-hub:", "hf_hub:")):
        return "timm"
    named = next((library for prefix, library in PREFIXES.items() if name.startswith(prefix)), None)
    return named or ("function" if ":" in name else "timm")


def make_backbone(
    name: str, image_size: int, pretrained: bool, keywords: Mapping[str, Any], channels: int = 3
) -> nn.Module:
    """Builds a backbone from another source than timm, by name.

    Args:
        name: in a form that ``library_of`` recognises.
        image_size: side of the images in pixels.
        pretrained: load the library's weights.
        keywords: arguments of the model, of its configuration (transformers), or of the function.
        channels: of the images.

    Raises:
        InputError: the name is unknown, the model can't be built or takes RGB only, or its weights can't be loaded.
    """
    library, place = library_of(name), name.partition(":")[2]
    if library == "object":
        raise InputError(
            f"backbone {name!r} was given as a Python object, which a run folder can't rebuild; pass that "
            "object again, or a function that makes it: package.module:function"
        )
    if library == "torchvision":
        if channels != 3:
            raise InputError(f"backbone {name!r} takes RGB only; timm's models take {several(channels, 'channel')}")
        return _of_torchvision(place, image_size, pretrained, keywords)
    if library == "transformers":
        return _of_transformers(place, pretrained, keywords, channels)
    return _of_function(name, pretrained, keywords)


def trained_size(name: str) -> int | None:
    """Side in pixels of the images on which the library evaluates these weights; None if it does not say.

    Raises:
        InputError: the name is unknown.
    """
    library, place = library_of(name), name.partition(":")[2]
    size: Any = None
    if library == "torchvision":
        size = _torchvision_images(_check_torchvision_name(place))["input_size"][-1]
    elif library == "transformers":
        images, config = processor_images(place), read_configuration(place, {})
        size = images.get("input_size") or getattr(config, "image_size", None)
        size = size[-1] if isinstance(size, list | tuple) else size
    return None if size is None else int(size)


# -- torchvision -------------------------------------------------------------------------------------------------------


def _check_torchvision_name(name: str) -> str:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("backbone", f"torchvision:{name}", [f"torchvision:{known}" for known in known])
    return name


def _of_torchvision(name: str, image_size: int, pretrained: bool, keywords: Mapping[str, Any]) -> nn.Module:
    _check_torchvision_name(name)
    given = {**torchvision_arguments(name, image_size), **keywords}
    with one_line(f"torchvision:{name}", pretrained):
        model: nn.Module = getattr(torchvision.models, name)(weights="DEFAULT" if pretrained else None, **given)
    remove_head(model)
    model.pretrained_cfg = _torchvision_images(name)  # type: ignore[assignment]  # like timm's models
    return model


def torchvision_arguments(name: str, image_size: int) -> dict[str, Any]:
    """Arguments to create a torchvision model for images of this size."""
    if name.startswith("vit_"):  # these take images of one size only
        return {"image_size": whole_patches(image_size, int(name.rpartition("_")[2]))}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    return dict(_TORCHVISION_DEFAULTS.get(name, {}))


def remove_head(model: nn.Module) -> str:
    """Replaces a torchvision model's classifier (its last layer with weights) and the dropout before it by the
    identity.

    Returns:
        The classifier's name.
    """
    names, modules = zip(*model.named_modules(), strict=True)
    last = max(i for i, module in enumerate(modules) if isinstance(module, nn.Linear | nn.Conv2d))
    for place in (last - 1, last) if isinstance(modules[last - 1], nn.Dropout) else (last,):
        model.set_submodule(names[place], nn.Identity())
    return str(names[last])


def _torchvision_images(name: str) -> dict[str, Any]:
    """torchvision's preprocessing for its weights, in timm's terms."""
    ready = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size, resized = ready.crop_size[0], ready.resize_size[0]
    return {
        "input_size": (3, size, size),
        "mean": tuple(ready.mean),
        "std": tuple(ready.std),
        "crop_pct": size / resized,
        "interpolation": ready.interpolation.value,
    }


# -- transformers ------------------------------------------------------------------------------------------------------


def _of_transformers(place: str, pretrained: bool, keywords: Mapping[str, Any], channels: int) -> TransformersBackbone:
    """A model for images of these channels. Pretrained weights of RGB's input layer are adapted by timm's rule."""
    own = channels_of(read_configuration(place, keywords))
    if own == channels:
        return TransformersBackbone(place, pretrained, keywords)
    backbone = TransformersBackbone(place, False, {**keywords, "num_channels": channels})
    if pretrained:
        given = TransformersBackbone(place, True, keywords)
        load_weights(backbone, given.model.state_dict(), f"backbone 'hf:{place}'")
    return backbone


# -- your own function -------------------------------------------------------------------------------------------------


def _of_function(name: str, pretrained: bool, keywords: Mapping[str, Any]) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    if pretrained:
        raise InputError(f"backbone {name!r}: pretrained is for named models; load the weights in the function")
    try:
        function = getattr(import_module(module_name), function_name, None)
    except (ImportError, ValueError) as error:
        line = " ".join(str(error).split())[:160]
        raise InputError(f"backbone {name!r}: {line}; give package.module:function, importable from here") from error
    if not callable(function):
        raise InputError(f"backbone {name!r}: {module_name} has no function {function_name}")
    with one_line(name, False):
        backbone = function(**keywords)
    if not isinstance(backbone, nn.Module):
        raise InputError(f"backbone {name!r} returned {type(backbone).__name__}, not a torch.nn.Module")
    return backbone
