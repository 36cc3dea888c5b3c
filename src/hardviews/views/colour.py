"""Brightness, contrast, saturation, hue and grey of a view as one affine map of its colours.

torchvision applies the steps one by one, clamps to 0..1 after each and rotates the hue in HSV. No affine map does that.
The map used here composes the steps (``colour_matrix``) and adds a correction fitted to torchvision's result at a few
points of the crop (``fitted``). Its difference from torchvision after one final clamp (mean absolute difference, 0..1;
mean / 99th percentile / maximum of 400 views, the worst of three samples of Imagenette) is 0.005 / 0.033 / 0.043 for
jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, and 0.008 / 0.049 / 0.072 for (0.8, 0.8, 0.8, 0.2). Without the
correction it is 0.011 / 0.058 / 0.086 and 0.015 / 0.100 / 0.186. ``benchmarks/colour.py`` measures this.
"""

from functools import lru_cache
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

# torchvision's weights of luma.
GREY = (0.2989, 0.587, 0.114)

# Ridge penalty of the fit, against overfitting where a crop has few or similar colours. It is small beside the variance
# of a picture's colours, about 0.05.
RIDGE = 1e-3


class Steps(NamedTuple):
    """The jitter of N views as maps, in the order drawn.

    Each step acts the same way on a pixel's colour and on the view's mean colour; contrast adds a part of the mean's
    grey to both. So every step is a linear map of the six numbers (colour, mean). Hue is a rotation about the grey
    axis.
    """

    maps: Tensor  # [N, 4, 6, 6]
    is_hue: Tensor  # bool [N, 4]
    turns: Tensor  # hue shift in turns


def steps_of(jitter: Tensor, order: Tensor) -> Steps:
    """The steps of a jitter.

    Args:
        jitter: ``[N, 4]``: brightness, contrast and saturation factors, and the hue shift in turns.
        order: int64 ``[N, 4]``, the order in which the steps are applied.
    """
    constant, linear, _, _ = _basis(jitter.device)
    turns = jitter[:, 3:]
    angle = 2 * pi * turns
    maps = torch.addmm(constant, torch.cat([jitter[:, :3], angle.cos(), angle.sin()], 1), linear).view(-1, 4, 36)
    maps = maps.gather(1, order[:, :, None].expand(-1, -1, 36)).view(-1, 4, 6, 6)
    return Steps(maps, order == 3, turns)


def colour_matrix(steps: Steps, grey: Tensor, *means: Tensor) -> Tensor:
    """Composes the jitter's steps, then grey, into affine maps of RGB in 0..1, without any clamp.

    Args:
        steps: from ``steps_of``.
        grey: bool ``[N]``.
        means: ``[N, 3]`` each, the crop's mean colour, which contrast blends with.

    Returns:
        ``[means, N, 3, 4]``.
    """
    _, _, to_grey, _ = _basis(grey.device)
    first, second = (steps.maps[:, 1::2] @ steps.maps[:, ::2]).unbind(1)
    linear = (second @ first)[:, :3]
    linear = torch.where(grey[:, None, None], to_grey @ linear, linear)
    added = linear[:, :, 3:] @ torch.stack(means, 2)  # [N, 3, means]
    return torch.stack([torch.cat([linear[:, :, :3], part], 2) for part in torch.split(added, 1, 2)])


def fitted(colours: Tensor, steps: Steps, grey: Tensor, mean: Tensor) -> Tensor:
    """Affine maps ``[N, 3, 4]`` that approximate torchvision's steps after a clamp: ``colour_matrix`` plus a
    correction.

    For each view, one ridge regression on some of its colours fits the difference between torchvision's result and the
    clamped composition.

    Args:
        colours: ``[N, 3, P]``, RGB in 0..1 at P points of the crop.
        steps, grey, mean: as for ``colour_matrix``.
    """
    of_view, of_points = colour_matrix(steps, grey, mean, colours.mean(2))
    composed = torch.baddbmm(of_points[:, :, 3:], of_points[:, :, :3], colours).clamp_(0, 1)
    missing = step_by_step(colours, steps, grey) - composed
    homogeneous = torch.cat([colours, torch.ones_like(colours[:, :1])], 1)  # [N, 4, P]
    moments = torch.baddbmm(_ridge(colours.shape[2], colours.device), homogeneous, homogeneous.mT)
    # solve_ex, because solve's error check would make a GPU wait; with the ridge the matrix is never singular.
    found: Tensor = torch.linalg.solve_ex(moments, homogeneous @ missing.mT).result  # [N, 4, 3]
    corrected: Tensor = of_view + found.mT
    return corrected


def step_by_step(colours: Tensor, steps: Steps, grey: Tensor) -> Tensor:
    """torchvision's ``adjust_…`` functions and ``rgb_to_grayscale``, batched with separate parameters for each image.

    Args:
        colours: ``[N, 3, P]``, RGB in 0..1: all pixels of an image, or a sample of them.
        steps: from ``steps_of``.
        grey: bool ``[N]``.
    """
    _, _, to_grey, nothing = _basis(colours.device)
    # Rotating the hue takes many operations, so all images do it once together, after the blends that precede it.
    turned = steps.is_hue.cumsum(1)[:, :3, None, None] > 0
    blends = steps.maps[:, :, :3]  # [N, 4, 3, 6]
    before = torch.where(turned, nothing, blends[:, :3])
    after = torch.where(turned, blends[:, 1:], nothing)
    for blend in before.unbind(1):
        colours = blended(colours, blend)
    colours = turn_hue(colours, steps.turns)
    for blend in after.unbind(1):
        colours = blended(colours, blend)
    return torch.where(grey[:, None, None], to_grey @ colours, colours)


def blended(colours: Tensor, blend: Tensor) -> Tensor:
    """Applies one brightness, contrast or saturation step ``[N, 3, 6]``, then torchvision's clamp."""
    added = blend[:, :, 3:] @ colours.mean(2, keepdim=True)
    return torch.baddbmm(added, blend[:, :, :3], colours).clamp_(0, 1)


def turn_hue(colours: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue in HSV.

    Args:
        colours: ``[N, 3, P]``, RGB.
        turns: ``[N, 1]``, the shift in turns.
    """
    differences, of_channel = _hue_basis(colours.device)
    high, which = colours.max(1, keepdim=True)  # [N, 1, P]
    chroma = high - colours.amin(1, keepdim=True)
    # Grey has no hue: any value will do, since its chroma of 0 cancels it.
    leaning = (differences @ colours).gather(1, which) / chroma.clamp(min=1e-12)
    hue = leaning.add_(which, alpha=2)  # in sixths of a turn
    sixths = hue.add(torch.add(of_channel, turns, alpha=6)[:, :, None]).remainder_(6)  # [N, 3, P]
    return torch.addcmul(high, torch.minimum(sixths, 4 - sixths).clamp_(0, 1), chroma, value=-1)


@lru_cache(maxsize=8)
def _basis(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Constants that the steps are built from; cached on the device, since copying them would make it wait.

    Returns:
        The constant part of the four maps, ``[4 · 36]``; the linear part in the brightness, contrast and saturation
        factors and the cosine and sine of the hue angle, ``[5, 4 · 36]``; the map from a colour to its grey,
        ``[3, 3]``; and the map from (colour, mean) to the unchanged colour, ``[3, 6]``.
    """
    same, none = torch.eye(3), torch.zeros(3, 3)
    grey, ones = torch.tensor([GREY] * 3), torch.ones(3, 3) / 3
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / sqrt(3)

    def map_of(colour: Tensor, mean: Tensor = none) -> Tensor:
        return torch.cat([torch.cat([colour, mean], 1), torch.cat([none, colour + mean], 1)])

    nothing = torch.zeros(6, 6)
    constant = [nothing, map_of(none, grey), map_of(grey), map_of(ones)]
    linear = [
        [map_of(same), nothing, nothing, nothing],
        [nothing, map_of(same, -grey), nothing, nothing],
        [nothing, nothing, map_of(same - grey), nothing],
        [nothing, nothing, nothing, map_of(same - ones)],
        [nothing, nothing, nothing, map_of(cross)],
    ]
    with torch.inference_mode(False):
        return (
            torch.stack(constant).flatten().to(device),
            torch.stack([torch.stack(maps).flatten() for maps in linear]).to(device),
            grey.to(device),
            torch.cat([same, none], 1).to(device),
        )


@lru_cache(maxsize=8)
def _hue_basis(device: torch.device) -> tuple[Tensor, Tensor]:
    """Differences of the other two channels, ``[3, 3]``, and each channel's hue offset in sixths of a turn, ``[3]``."""
    with torch.inference_mode(False):
        differences = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]], device=device)
        return differences, torch.tensor([5.0, 3.0, 1.0], device=device)


@lru_cache(maxsize=8)
def _ridge(points: int, device: torch.device) -> Tensor:
    """``RIDGE`` scaled for sums over ``points`` points."""
    with torch.inference_mode(False):
        return RIDGE * points * torch.eye(4, device=device)
