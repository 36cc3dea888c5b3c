"""A backbone's feature maps, and feature pyramids for detectors.

Networks with several stages: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017 (arXiv 1612.03144).
Networks with one resolution: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet),
ECCV 2022 (arXiv 2203.16527), section 3.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from hardviews.errors import InputError
from hardviews.evaluation.features import evaluating
from hardviews.networks.backbones import patch_size
from hardviews.views.plan import whole_patches

LEVELS = 4
FINEST = 4  # target stride in pixels of a plain transformer's finest level
PROBE = 128  # approximate side of the image used to find a backbone's maps


class Stages(nn.Module):
    """The last feature maps of any timm backbone: images ``[B, 3, h, w]`` → maps ``[B, C, h / s, w / s]``.

    From a network with several stages: the last map of each of its coarsest resolutions, finest first (a ResNet's four
    have strides 4 to 32, or 1 to 8 with a CIFAR stem). From a plain transformer: the patch tokens of its last blocks
    after the final norm.

    Args:
        backbone: with timm's ``forward_intermediates``.
        stages: maximum number of maps.
        blocks: number of maps of a plain transformer.

    Attributes:
        plain: whether all maps have the same resolution.
        channels, strides: of every map; strides in pixels.
        multiple: the sides of images must be multiples of this.

    Raises:
        InputError: the backbone exposes no maps, or takes images of one size only.
    """

    def __init__(self, backbone: nn.Module, stages: int = LEVELS, blocks: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        patch = patch_size(backbone)
        side = whole_patches(PROBE, patch)
        maps = self._probe(side)
        strides = [side // found.shape[-1] for found in maps]
        self.plain = len(maps) > 1 and len(set(strides)) == 1
        # the last of several maps of one resolution
        ends = [k for k, (one, next_one) in enumerate(pairwise([*strides, 0])) if self.plain or one != next_one]
        self.indices = ends[-(blocks if self.plain else stages) :]
        self.channels = [maps[k].shape[1] for k in self.indices]
        self.strides = [strides[k] for k in self.indices]
        self.multiple = math.lcm(patch, *self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        backbone: Any = self.backbone
        maps: list[Tensor] = backbone.forward_intermediates(
            images, indices=self.indices, norm=True, stop_early=True, intermediates_only=True
        )
        return maps

    @torch.no_grad()
    def _probe(self, side: int) -> list[Tensor]:
        backbone: Any = self.backbone
        name = type(backbone).__name__
        if not hasattr(backbone, "forward_intermediates"):
            raise InputError(f"backbone {name} exposes no feature maps, which this protocol needs")
        images = next(backbone.parameters()).new_zeros(1, 3, side, side)
        try:
            with evaluating(backbone):
                maps: list[Tensor] = backbone.forward_intermediates(images, intermediates_only=True)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"backbone {name} exposes no feature maps for images of {side} pixels: {line}") from error
        return maps


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid: makes every level from one map by its own deconvolutions or pooling.

    With patches of 16 pixels, two deconvolutions, one, none, and pooling make levels of stride 4, 8, 16 and 32; other
    patch sizes use the numbers of factors of two that come nearest to these strides.

    Args:
        channels: of the map.
        patch: its stride in pixels.
        width: channels of every level.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        finest = round(math.log2(FINEST / patch))
        self.strides = [patch * 2.0 ** (finest + level) for level in range(LEVELS)]
        self.levels = nn.ModuleList(_level(channels, finest + level, width) for level in range(LEVELS))

    def forward(self, one: Tensor) -> list[Tensor]:
        return [level(one) for level in self.levels]


def _level(channels: int, power: int, width: int) -> nn.Sequential:
    """Resamples a map to 2 ** power times the stride."""
    steps: list[nn.Module] = [nn.MaxPool2d(2**power)] if power > 0 else []
    for k in range(-power):
        if k:
            steps += [LayerNorm2d(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    steps += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width)]
    steps += [nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width)]
    return nn.Sequential(*steps)


class Pyramid(nn.Module):
    """A backbone in the form of torchvision's detectors: images → levels "0" to "3" and "pool", float ``[B, width,
    ...]``.

    The backbone's batch norms stay as pretraining left them, statistics and scales, as in torchvision: small batches of
    large pictures would harm them.

    Args:
        backbone: trained in place, unless ``frozen``.
        width: channels of every level.
        frozen: do not train the backbone.

    Attributes:
        strides: of every level, in pixels.
        multiple: the sides of images must be multiples of this, so that levels align exactly.
    """

    def __init__(self, backbone: nn.Module, width: int = 256, frozen: bool = False) -> None:
        super().__init__()
        self.stages = Stages(backbone)
        self.frozen = frozen
        self.out_channels = width
        self.simple: SimplePyramid | None = None
        if self.stages.plain:
            (channels,), (patch,) = self.stages.channels, self.stages.strides
            self.simple = SimplePyramid(channels, patch, width)
            strides: Sequence[float] = self.simple.strides
            self.multiple = math.lcm(self.stages.multiple, math.ceil(strides[-1]))
        else:
            self.top_down = FeaturePyramidNetwork(self.stages.channels, width)
            strides = self.stages.strides
            self.multiple = self.stages.multiple
        self.coarsest = LastLevelMaxPool()
        self.strides = [*map(float, strides), 2.0 * strides[-1]]
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Pyramid":
        super().train(mode)
        for module in self.stages.modules():
            if self.frozen or isinstance(module, _BatchNorm):
                module.training = False
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.stages(images)
        if self.simple is not None:
            levels = self.simple(maps[0])
        else:
            named = OrderedDict((str(level), found) for level, found in enumerate(maps))
            levels = list(self.top_down(named).values())
        names = [str(level) for level in range(len(levels))]
        levels, names = self.coarsest(levels, maps, names)
        # Boxes are predicted to the pixel, so the levels are float32 even if convolutions are not.
        return OrderedDict((name, level.float()) for name, level in zip(names, levels, strict=True))


def finest_map(maps: Sequence[Tensor]) -> Tensor:
    """Concatenates maps, upsampled to the finest, to ``[B, sum of channels, h, w]``."""
    size = maps[0].shape[-2:]
    same = [one if one.shape[-2:] == size else F.interpolate(one, size, mode="bilinear") for one in maps]
    return torch.cat(same, 1)
