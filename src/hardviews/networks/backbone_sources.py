"""Backbones from other sources than timm: torchvision, Hugging Face transformers, or your own function."""

import contextlib
import inspect
import io
import json
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from hardviews.errors import InputError, unknown
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD, whole_patches

Library = Literal["timm", "torchvision", "transformers", "function", "object"]
PREFIXES: dict[str, Library] = {"torchvision:": "torchvision", "hf:": "transformers", "object:": "object"}

# GoogLeNet and Inception return auxiliary logits in training, which no loss here uses.
_NO_AUXILIARY = {"aux_logits": False, "init_weights": True}
_TORCHVISION_DEFAULTS = {"googlenet": _NO_AUXILIARY, "inception_v3": _NO_AUXILIARY}
# Pillow's numbers of filters, which image processors store.
_PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic", 1: "lanczos"}


def library_of(name: str) -> Library:
    """The source of a backbone's name: ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``, ``package.module:function``, or a
    timm name."""
    if name.startswith(("local-dir:", "hf-hub:", "hf_hub:")):
        return "timm"
    named = next((library for prefix, library in PREFIXES.items() if name.startswith(prefix)), None)
    return named or ("function" if ":" in name else "timm")


def make_backbone(name: str, image_size: int, pretrained: bool, keywords: Mapping[str, Any]) -> nn.Module:
    """Builds a backbone from another source than timm, by name.

    Args:
        name: in a form that ``library_of`` recognises.
        image_size: side of the images in pixels.
        pretrained: load the library's weights.
        keywords: arguments of the model, of its configuration (transformers), or of the function.

        Raises:
        InputError: the name is unknown, the model can't be built, or its weights can't be loaded.
    """
    library, place = library_of(name), name.partition(":")[2]
    if library == "object":
        raise InputError(
            f"backbone {name!r} was given as a Python object, which a run folder can't rebuild; pass that "
            "object again, or a function that makes it: package.module:function"
        )
    if library == "torchvision":
        return _of_torchvision(place, image_size, pretrained, keywords)
    if library == "transformers":
        return TransformersBackbone(place, pretrained, keywords)
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
        images, config = _processor_images(place), _read_config(place, {})
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
    with _one_line(f"torchvision:{name}", pretrained):
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


class TransformersBackbone(nn.Module):
    """An image model of Hugging Face's transformers: images ``[B, 3, h, w]`` to features ``[B, D]``.

    The features are the model's pooled output. ViT and DeiT add a dense layer with tanh to the class token, which
    belongs to their classifier; it is removed, so their feature is the class token. A model without either uses the
    mean over all positions.

    Args:
        place: a folder that ``save_pretrained`` wrote, or a name on the hub. Code in it is never executed.
        pretrained: also load the weights, from safetensors only.
        keywords: settings of the configuration to change.

    Raises:
        InputError: transformers is missing, the model can't be loaded, or it does not take images.
    """

    def __init__(self, place: str, pretrained: bool = False, keywords: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        config = _read_config(place, keywords or {})
        from transformers import AutoModel

        with _one_line(f"hf:{place}", pretrained), _quiet():
            self.model: Any = (
                AutoModel.from_pretrained(place, config=config, use_safetensors=True)
                if pretrained
                else AutoModel.from_config(config)  # type: ignore[no-untyped-call]
            )
        self.model.train()
        if self.model.main_input_name != "pixel_values":
            raise InputError(f"backbone 'hf:{place}' takes {self.model.main_input_name}, not images")
        if isinstance(getattr(getattr(self.model, "pooler", None), "dense", None), nn.Linear):
            self.model.pooler = None
        for name, parameter in self.model.named_parameters():
            if name.endswith("mask_token"):  # unused here: DDP would wait for its gradient
                parameter.requires_grad_(False)
        self.has_class_token = any(name.endswith(("cls_token", "class_embedding")) for name in self.model.state_dict())
        accepted = inspect.signature(self.model.forward).parameters
        self.settings = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
        patch = getattr(config, "patch_size", None)
        self.patch_size = patch if isinstance(patch, int) else 1
        self.pretrained_cfg = _processor_images(place)

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(pixel_values=images, **self.settings)
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        last: Tensor = found.last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if self.has_class_token else last.mean(1)

    def expression(self, image_size: int) -> str:
        """Code that computes the result of ``forward`` from ``found``, the model's output."""
        with torch.no_grad():
            found = self.model(pixel_values=torch.zeros(1, 3, image_size, image_size), **self.settings)
        if getattr(found, "pooler_output", None) is not None:
            return "found.pooler_output.flatten(1)"
        if found.last_hidden_state.ndim == 4:
            return "found.last_hidden_state.mean((2, 3))"
        return "found.last_hidden_state[:, 0]" if self.has_class_token else "found.last_hidden_state.mean(1)"


def _read_config(place: str, keywords: Mapping[str, Any]) -> Any:
    if find_spec("transformers") is None:
        raise InputError(f"backbone 'hf:{place}' needs transformers: pip install 'hardviews[transformers]'")
    from transformers import AutoConfig

    with _one_line(f"hf:{place}", False), _quiet():
        config, unknown_ones = AutoConfig.from_pretrained(place, return_unused_kwargs=True, **keywords)
    if unknown_ones:
        raise InputError(f"backbone 'hf:{place}': its configuration has no {', '.join(unknown_ones)}")
    return config


def _processor_images(place: str) -> dict[str, Any]:
    """The preprocessing of the image processor saved with a model, in timm's terms; empty if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        with _quiet():
            found, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except (OSError, ValueError, json.JSONDecodeError):
        return {}
    resized, cropped = _side(found.get("size")), _side(found.get("crop_size"))
    cropped = (cropped if found.get("do_center_crop", True) else None) or resized
    images: dict[str, Any] = {
        "mean": tuple(found.get("image_mean") or IMAGENET_MEAN),
        "std": tuple(found.get("image_std") or IMAGENET_STD),
        "interpolation": _PILLOW.get(found.get("resample", 3), "bicubic"),
    }
    if cropped and resized:
        images |= {"input_size": (3, cropped, cropped), "crop_pct": cropped / max(resized, cropped)}
    return images


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) else None


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
    with _one_line(name, False):
        backbone = function(**keywords)
    if not isinstance(backbone, nn.Module):
        raise InputError(f"backbone {name!r} returned {type(backbone).__name__}, not a torch.nn.Module")
    return backbone


@contextlib.contextmanager
def _one_line(name: str, pretrained: bool) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    # Third-party code may raise anything.
    except Exception as error:
        what = "its pretrained weights could not be loaded" if pretrained else "it could not be built"
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r}: {what}: {line or type(error).__name__}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses progress bars and warnings of transformers; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
