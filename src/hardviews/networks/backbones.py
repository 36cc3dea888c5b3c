"""Backbones: networks that map an image to one feature vector. Builds timm's by name, and the CIFAR form of ResNets."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models import ResNet
from torch import Tensor, nn

from hardviews.errors import InputError, unknown
from hardviews.networks.backbone_sources import Library, library_of, make_backbone
from hardviews.networks.timm_folders import is_local, read_config
from hardviews.views.plan import whole_patches
from hardviews.wording import several

Stem = Literal["auto", "imagenet", "cifar"]

# In images smaller than this (pixels), an ImageNet ResNet's strided 7x7 stem and max-pool discard most of the picture.
CIFAR_STEM_BELOW = 64

# Maximum graphs per piece of code: a ViT block needs one per view size, with and without gradient, and per
# drop-path rate; each block has its own rate.
GRAPHS = 256


class Built(NamedTuple):
    """A backbone and how to rebuild it. timm's: ``timm.create_model(architecture, num_classes=0, **arguments)``, then a
    CIFAR stem if ``cifar_stem``. For others, ``architecture`` is the name that was given."""

    backbone: nn.Module
    architecture: str
    arguments: dict[str, Any]
    cifar_stem: bool
    library: Library = "timm"


def create_backbone(
    name: str | nn.Module,
    image_size: int,
    *,
    stem: Stem = "auto",
    pretrained: bool = False,
    image_channels: int = 3,
    **keywords: Any,
) -> nn.Module:
    """Builds the backbone alone; takes the arguments of ``build_backbone``."""
    return build_backbone(
        name, image_size, stem=stem, pretrained=pretrained, image_channels=image_channels, **keywords
    ).backbone


def build_backbone(
    name: str | nn.Module,
    image_size: int,
    *,
    stem: Stem = "auto",
    pretrained: bool = False,
    image_channels: int = 3,
    **keywords: Any,
) -> Built:
    """Builds a network without classifier: images ``[B, C, image_size, image_size]`` to features ``[B, D]``.

    Args:
        name: a timm name such as ``resnet18``, ``vit_small_patch16_224.dino`` or ``local-dir:PATH``;
            ``torchvision:resnet50``; ``hf:USER/NAME`` or ``hf:FOLDER`` (transformers); ``package.module:function``,
            which returns a module; or a module, which is copied. A module of your own may set ``patch_size``
            (view sizes must be multiples of it) and ``pretrained_cfg`` with mean and std.
        image_size: side of the images in pixels; position embeddings are built for it, rounded to whole patches.
        stem: ``"cifar"`` gives a ResNet a 3x3 stem of stride 1, of the same width, and no max-pool; ``"imagenet"``
            keeps the stem; ``"auto"`` chooses ``"cifar"`` for ResNets with a plain stem below 64 pixels that are not
            pretrained.
        pretrained: load weights from timm, torchvision or the hub. Their input layer for RGB becomes one for other
            channels by timm's rule (``adapt_input_conv``): RGB's weights repeated and scaled, of one channel their sum.
        image_channels: C. If it is not 3, timm's models get it as ``in_chans`` and those of transformers as
            ``num_channels``; torchvision's take RGB only, and a function or module of your own takes what it takes.
        keywords: further arguments of ``timm.create_model``, torchvision's model, the configuration (transformers) or
            the function.

    Raises:
        InputError: the name is unknown, the model does not take a keyword, weights can't be loaded, or the model does
            not yield one vector per image of this size.
    """
    if isinstance(name, nn.Module) or library_of(name) != "timm":
        return _build_other(name, image_size, stem, pretrained, image_channels, keywords)
    if keywords.get("in_chans", image_channels) != image_channels:
        raise InputError(
            f"backbone.in_chans: {keywords['in_chans']}, but images have {image_channels} channels; leave it out"
        )
    local = is_local(name)
    if not local and not timm.is_model(name):
        raise unknown_backbone(name)
    try:
        tag = timm.get_pretrained_cfg(name, allow_unregistered=True) if not local else None
    except RuntimeError:
        raise unknown("backbone", name, timm.list_pretrained(f"{name.partition('.')[0]}.*")) from None
    if pretrained and tag is None and not local:
        raise InputError(f"backbone {name!r} has no pretrained weights in timm")
    if tag is not None and tag.fixed_input_size:
        keywords = {"img_size": image_size, "dynamic_img_size": True} | keywords
    keywords = keywords | _input_channels(name, image_channels, pretrained)
    backbone, keywords = _create(name, pretrained, keywords)
    rounded = whole_patches(image_size, patch_size(backbone))
    if rounded != image_size and keywords.get("img_size") == image_size:
        backbone, keywords = _create(name, pretrained, {**keywords, "img_size": rounded})
    small = image_size < CIFAR_STEM_BELOW and not pretrained
    cifar_stem = stem == "cifar" or (stem == "auto" and small and _has_plain_stem(backbone))
    if cifar_stem:
        _give_cifar_stem(name, backbone)
    check_features(name, backbone, rounded, image_channels)
    if not local:
        return Built(backbone, name.partition(".")[0], keywords, cifar_stem)
    _, architecture, saved = read_config(name)
    return Built(backbone, architecture, saved | keywords, cifar_stem)


def _input_channels(name: str, channels: int, pretrained: bool) -> dict[str, int]:
    """timm's argument for other channels than the model has by itself.

    Raises:
        InputError: its weights are for channels that are neither these nor RGB.
    """
    own = read_config(name)[2].get("in_chans", 3) if is_local(name) else 3
    if pretrained and own not in (3, channels):
        raise InputError(
            f"backbone {name!r} is trained on {own} channels, and images have {channels}; only weights for RGB become "
            "weights for other channels"
        )
    return {} if own == channels else {"in_chans": channels}


def _build_other(
    name: str | nn.Module, image_size: int, stem: Stem, pretrained: bool, channels: int, keywords: dict[str, Any]
) -> Built:
    """Builds a backbone that is not timm's."""
    library: Library
    if isinstance(name, nn.Module):
        backbone, library = deepcopy(name).train(), "object"
        name = f"object:{type(name).__module__}.{type(name).__qualname__}"
        if pretrained or keywords:
            raise InputError(f"backbone {name!r} is already built: it takes neither pretrained nor keywords")
    else:
        backbone, library = make_backbone(name, image_size, pretrained, keywords, channels), library_of(name)
    if stem == "cifar":
        raise InputError(f"backbone {name!r} has no CIFAR stem; only timm's ResNets have one")
    features = check_features(name, backbone, whole_patches(image_size, patch_size(backbone)), channels)
    backbone._feature_dim = features  # type: ignore[assignment]  # a plain number, which copies keep
    return Built(backbone, name, keywords, False, library)


def unknown_backbone(name: str) -> InputError:
    """The error for a name that timm does not know, with similar names or how others are written."""
    module, dot, function = name.rpartition(".")
    if dot and not timm.is_model(name.partition(".")[0]):
        return InputError(f"unknown backbone {name!r}; a function of your own is MODULE:NAME, {module}:{function}")
    return unknown("backbone", name, timm.list_models())


def _create(name: str, pretrained: bool, keywords: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The model and the keywords that it was built with."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **keywords), keywords
    except TypeError as error:
        # Not every model of fixed size accepts other sizes at run time (Swin doesn't).
        if "dynamic_img_size" in str(error) and "dynamic_img_size" in keywords:
            return _create(name, pretrained, {k: v for k, v in keywords.items() if k != "dynamic_img_size"})
        raise InputError(f"backbone {name!r}: {' '.join(str(error).split())}") from error
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        what = "its pretrained weights could not be loaded" if pretrained else "it could not be built"
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r}: {what}: {line or type(error).__name__}") from error


def _has_plain_stem(backbone: nn.Module) -> bool:
    return isinstance(backbone, ResNet) and isinstance(backbone.conv1, nn.Conv2d)


def _give_cifar_stem(name: str, backbone: nn.Module) -> None:
    """As He et al. (2016, section 4.2) and every CIFAR recipe since: 3x3, stride 1, no max-pool."""
    stem = backbone.conv1 if isinstance(backbone, ResNet) else nn.Identity()
    convs = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    if not convs:
        raise InputError(f"backbone {name!r} has no CIFAR stem; only timm's ResNets have one")
    # Same width as the stem it replaces: a deep stem's width is stem_width, which matters for narrow networks.
    conv = nn.Conv2d(convs[0].in_channels, convs[-1].out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    backbone.add_module("conv1", conv)
    backbone.add_module("maxpool", nn.Identity())


def check_features(name: str, backbone: nn.Module, image_size: int, channels: int = 3) -> int:
    """Sends a blank image ``[1, channels, image_size, image_size]`` through a backbone, on its device.

    Returns:
        D, the length of its feature vector.

    Raises:
        InputError: the backbone does not take images of this size and these channels, or does not return one vector
            for each.
    """
    training, weight = backbone.training, next(backbone.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            features: Any = backbone.eval()(torch.zeros(1, channels, image_size, image_size, device=weight.device))
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        line = " ".join(str(error).split())[:200]
        what = f"{image_size} pixels" + ("" if channels == 3 else f" and {several(channels, 'channel')}")
        raise InputError(f"backbone {name!r} does not take images of {what}: {line}") from error
    finally:
        backbone.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"backbone {name!r} yields {found} for one image, not one feature vector")
    return int(features.shape[1])


def feature_dim(backbone: nn.Module) -> int:
    """D, the length of a backbone's feature vector.

    Raises:
        InputError: the module does not declare it.
    """
    named = (getattr(backbone, name, None) for name in ("_feature_dim", "head_hidden_size", "num_features"))
    found = next((size for size in named if isinstance(size, int) and size), None)
    if found is None:
        raise InputError(
            f"backbone {type(backbone).__name__} does not declare its number of features; set its num_features"
        )
    return found


def compile_backbones(method: nn.Module, backend: str = "inductor") -> None:
    """Compiles every backbone of a method with torch.compile, in place, at its first call. A ViT is compiled block by
    block: its blocks share their graphs except for the drop-path rate, and methods that read tokens call them too.

    Each view size, scoring and training get a graph of their own in the first steps, and none afterwards.
    """
    for limit in ("recompile_limit", "cache_size_limit"):  # per code object; torch 2.6 has the latter name, default 8
        if getattr(torch._dynamo.config, limit, GRAPHS) < GRAPHS:
            setattr(torch._dynamo.config, limit, GRAPHS)
    for name, backbone in method.named_modules():
        if name.rpartition(".")[2] == "backbone":
            blocks = getattr(backbone, "blocks", None)
            for part in (
                blocks if isinstance(blocks, nn.Sequential) and hasattr(backbone, "patch_embed") else [backbone]
            ):
                part.compile(backend=backend)


def patch_size(backbone: nn.Module) -> int:
    """Side of a ViT's patch in pixels; view sizes must be multiples of it. 1 for convolutional networks.

    timm stores it in ``patch_embed``, others in the network itself.
    """
    size = getattr(getattr(backbone, "patch_embed", None), "patch_size", None) or getattr(backbone, "patch_size", 1)
    size = size[0] if isinstance(size, tuple | list) else size
    return size if isinstance(size, int) else 1


def strided_over_one_pixel(backbone: nn.Module, size: int, channels: int = 3) -> str | None:
    """The first strided convolution whose input is a single pixel for views of ``size``, or None."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Tensor], None]:
        def hook(conv: nn.Conv2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            if max(conv.stride) > 1 and max(conv.kernel_size) > 1 and inputs[0].shape[-2:] == (1, 1):
                found.append(name)

        return hook

    convolutions = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(look(name)) for name, conv in convolutions]
    try:
        check_features(type(backbone).__name__, backbone, size, channels)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
