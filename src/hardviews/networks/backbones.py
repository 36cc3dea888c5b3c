"""Backbones: any network that yields one feature vector per image, timm's by name, and the CIFAR form of ResNets."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models import ResNet
from torch import Tensor, nn

from hardviews.errors import InputError, unknown
from hardviews.networks.backbone_sources import Library, library_of, make_backbone
from hardviews.views.plan import whole_patches

Stem = Literal["auto", "imagenet", "cifar"]

# Below this many pixels the strided 7x7 stem and max-pool of an ImageNet ResNet throw most of the picture away.
CIFAR_STEM_BELOW = 64

# Graphs of one piece of code: those of a ViT's block are for some sizes of view, with and without gradient, and as many
# rates of drop-path as it has blocks.
GRAPHS = 256


class Built(NamedTuple):
    """A backbone, and what makes it again: of timm ``timm.create_model(architecture, num_classes=0, **arguments)``, and
    then a CIFAR stem where it has one; of others ``architecture`` is the name it was given by."""

    backbone: nn.Module
    architecture: str
    arguments: dict[str, Any]
    cifar_stem: bool
    library: Library = "timm"


def create_backbone(
    name: str | nn.Module, image_size: int, *, stem: Stem = "auto", pretrained: bool = False, **keywords: Any
) -> nn.Module:
    """The backbone alone of what ``build_backbone`` builds, by the same arguments."""
    return build_backbone(name, image_size, stem=stem, pretrained=pretrained, **keywords).backbone


def build_backbone(
    name: str | nn.Module, image_size: int, *, stem: Stem = "auto", pretrained: bool = False, **keywords: Any
) -> Built:
    """A network without its classifier: images ``[B, 3, image_size, image_size]`` to features ``[B, D]``.

    Args:
        name: as timm names it, ``resnet18``, ``vit_small_patch16_224.dino``, ``local-dir:PATH``;
            ``torchvision:resnet50``; ``hf:USER/NAME`` or ``hf:FOLDER`` (transformers); ``package.module:function``,
            which returns a module; or a module, which is copied. Of a function's or one's own module,
            ``patch_size`` says what view sizes must be multiples of, and ``pretrained_cfg`` may hold mean and std.
        image_size: side of the images in pixels; position embeddings are made for it, in whole patches.
        stem: ``"cifar"`` gives a ResNet a 3x3 stem of stride 1, as wide as its own, and no max-pool, ``"imagenet"``
            leaves it as it is, ``"auto"`` takes ``"cifar"`` for ResNets of a plain stem below 64 pixels that are not
            pretrained.
        pretrained: load the weights of timm, torchvision or the hub.
        keywords: further arguments of ``timm.create_model``, of torchvision's model, of the configuration
            (transformers) or of the function.

    Raises:
        InputError: the name is unknown, a keyword is not one of this model's, weights can't be had, or the model
            does not yield one vector per image of this size.
    """
    if isinstance(name, nn.Module) or library_of(name) != "timm":
        return _build_other(name, image_size, stem, pretrained, keywords)
    local = is_local(name)
    if not local and not timm.is_model(name):
        raise unknown("backbone", name, timm.list_models())
    try:
        tag = timm.get_pretrained_cfg(name, allow_unregistered=True) if not local else None
    except RuntimeError:
        raise unknown("backbone", name, timm.list_pretrained(f"{name.partition('.')[0]}.*")) from None
    if pretrained and tag is None and not local:
        raise InputError(f"backbone {name!r} has no pretrained weights in timm")
    if tag is not None and tag.fixed_input_size:
        keywords = {"img_size": image_size, "dynamic_img_size": True} | keywords
    backbone, keywords = _create(name, pretrained, keywords)
    whole = whole_patches(image_size, patch_size(backbone))
    if whole != image_size and keywords.get("img_size") == image_size:
        backbone, keywords = _create(name, pretrained, {**keywords, "img_size": whole})
    small = image_size < CIFAR_STEM_BELOW and not pretrained
    cifar_stem = stem == "cifar" or (stem == "auto" and small and _has_plain_stem(backbone))
    if cifar_stem:
        _give_cifar_stem(name, backbone)
    check_features(name, backbone, whole)
    if not local:
        return Built(backbone, name.partition(".")[0], keywords, cifar_stem)
    _, architecture, saved = read_config(name)
    return Built(backbone, architecture, saved | keywords, cifar_stem)


def _build_other(
    name: str | nn.Module, image_size: int, stem: Stem, pretrained: bool, keywords: dict[str, Any]
) -> Built:
    """A backbone that is not timm's."""
    library: Library
    if isinstance(name, nn.Module):
        backbone, library = deepcopy(name).train(), "object"
        name = f"object:{type(name).__module__}.{type(name).__qualname__}"
        if pretrained or keywords:
            raise InputError(f"backbone {name!r} is made already: it takes neither pretrained nor keywords")
    else:
        backbone, library = make_backbone(name, image_size, pretrained, keywords), library_of(name)
    if stem == "cifar":
        raise InputError(f"backbone {name!r} has no CIFAR stem; only timm's ResNets have one")
    features = check_features(name, backbone, whole_patches(image_size, patch_size(backbone)))
    backbone._feature_dim = features  # type: ignore[assignment]  # a plain number, kept by copies
    return Built(backbone, name, keywords, False, library)


def is_local(name: str) -> bool:
    """Whether timm takes a name for that of a folder, here or on the hub."""
    return name.startswith(("local-dir:", "hf-hub:", "hf_hub:"))


def read_config(name: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What the config.json of a folder says: of its weights, the architecture, and the arguments besides the number of
    classes.

    Raises:
        InputError: it can't be read.
    """
    source, _, place = name.partition(":")
    read = "load_model_config_from_path" if source == "local-dir" else "load_model_config_from_hf"
    try:
        config, architecture, arguments = getattr(timm.models._hub, read)(place)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:  # the last of JSON of other forms
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r}: its config.json can't be read: {line or type(error).__name__}") from error
    return config, architecture, {key: value for key, value in (arguments or {}).items() if key != "num_classes"}


def _create(name: str, pretrained: bool, keywords: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the keywords that it was made with."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **keywords), keywords
    except TypeError as error:
        # Not every model of fixed size can also take other sizes as it runs (Swin can't).
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
    # As wide as what it replaces: stem_type deep is as wide as stem_width says, which narrow networks need.
    conv = nn.Conv2d(convs[0].in_channels, convs[-1].out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    backbone.add_module("conv1", conv)
    backbone.add_module("maxpool", nn.Identity())


def check_features(name: str, backbone: nn.Module, image_size: int) -> int:
    """Sends a blank image through a backbone, on the device where it is.

    Returns:
        D, the length of its feature vector.

    Raises:
        InputError: it does not take images of this size, or yields no vector of them.
    """
    training, weight = backbone.training, next(backbone.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            features: Any = backbone.eval()(torch.zeros(1, 3, image_size, image_size, device=weight.device))
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r} does not take images of {image_size} pixels: {line}") from error
    finally:
        backbone.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"backbone {name!r} yields {found} for one image, not one feature vector")
    return int(features.shape[1])


def feature_dim(backbone: nn.Module) -> int:
    """D, the length of a backbone's feature vector.

    Raises:
        InputError: a module of one's own does not say.
    """
    named = (getattr(backbone, name, None) for name in ("_feature_dim", "head_hidden_size", "num_features"))
    found = next((size for size in named if isinstance(size, int) and size), None)
    if found is None:
        raise InputError(
            f"backbone {type(backbone).__name__} does not say how many features it yields; set its num_features"
        )
    return found


def compile_backbones(method: nn.Module, backend: str = "inductor") -> None:
    """Lets torch.compile every backbone of a method, in place and at its first call; a ViT's block by block, which
    share their graphs but for the rate of drop-path, and which methods that read tokens call too.

    Views of every size, scoring and training each get a graph of their own, in the first steps, and none after that.
    """
    for limit in ("recompile_limit", "cache_size_limit"):  # of a block's code; torch 2.6 has the latter, of 8
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
    """Side of a ViT's patch in pixels, which view sizes must be multiples of; 1 for convolutional networks.

    timm has it at ``patch_embed``, others at the network itself.
    """
    size = getattr(getattr(backbone, "patch_embed", None), "patch_size", None) or getattr(backbone, "patch_size", 1)
    size = size[0] if isinstance(size, tuple | list) else size
    return size if isinstance(size, int) else 1


def strided_over_one_pixel(backbone: nn.Module, size: int) -> str | None:
    """The first strided convolution that sees a single pixel of views of ``size``, if any."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Tensor], None]:
        def hook(conv: nn.Conv2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            if max(conv.stride) > 1 and max(conv.kernel_size) > 1 and inputs[0].shape[-2:] == (1, 1):
                found.append(name)

        return hook

    convolutions = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(look(name)) for name, conv in convolutions]
    try:
        check_features(type(backbone).__name__, backbone, size)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
