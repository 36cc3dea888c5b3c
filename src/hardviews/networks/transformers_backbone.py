"""Backbones of Hugging Face's transformers."""

import contextlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.networks.quiet import quiet
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD

# Pillow's numbers of filters, which image processors store.
_PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic", 1: "lanczos"}


class TransformersBackbone(nn.Module):
    """An image model of Hugging Face's transformers: images ``[B, C, h, w]`` to features ``[B, D]``.

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
        config = read_configuration(place, keywords or {})
        from transformers import AutoModel

        with one_line(f"hf:{place}", pretrained), quiet(logging.WARNING):
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
        self.channels = channels_of(config)
        self.pretrained_cfg = processor_images(place) or dict(getattr(config, "images", {}))  # of an exported folder

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
            blank = torch.zeros(1, self.channels, image_size, image_size)
            found = self.model(pixel_values=blank, **self.settings)
        if getattr(found, "pooler_output", None) is not None:
            return "found.pooler_output.flatten(1)"
        if found.last_hidden_state.ndim == 4:
            return "found.last_hidden_state.mean((2, 3))"
        return "found.last_hidden_state[:, 0]" if self.has_class_token else "found.last_hidden_state.mean(1)"


def channels_of(config: Any) -> int:
    """The channels that a configuration of transformers says, 3 if it does not."""
    found = getattr(config, "num_channels", 3)
    return found if isinstance(found, int) else 3


def read_configuration(place: str, keywords: Mapping[str, Any]) -> Any:
    if find_spec("transformers") is None:
        raise InputError(f"backbone 'hf:{place}' needs transformers: pip install 'hardviews[transformers]'")
    from transformers import AutoConfig

    with one_line(f"hf:{place}", False), quiet(logging.WARNING):
        config, unknown_ones = AutoConfig.from_pretrained(place, return_unused_kwargs=True, **keywords)
    if unknown_ones:
        raise InputError(f"backbone 'hf:{place}': its configuration has no {', '.join(unknown_ones)}")
    return config


def processor_images(place: str) -> dict[str, Any]:
    """The preprocessing of the image processor saved with a model, in timm's terms; empty if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        with quiet(logging.WARNING):
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


@contextlib.contextmanager
def one_line(name: str, pretrained: bool) -> Iterator[None]:
    """Says in one line why a backbone can't be built."""
    try:
        yield
    except InputError:
        raise
    # Third-party code may raise anything.
    except Exception as error:
        what = "its pretrained weights could not be loaded" if pretrained else "it could not be built"
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r}: {what}: {line or type(error).__name__}") from error
