"""Brightness, contrast, saturation, hue and grey of a view as one affine map of its colours.

torchvision applies the steps one by one, clamps to 0..1 after each and turns the hue in HSV. No affine map does that;
the one used here is the plain composition of the steps (``colour_matrix``) plus what fits torchvision's result best at
a few points of the crop (``correction``). How far a view then is from torchvision's, after one clamp at the end (mean
absolute difference, 0..1; mean / 99th percentile / largest of 400 views, the worst of three samples of Imagenette):
0.005 / 0.033 / 0.043 for jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, and 0.008 / 0.049 / 0.072 for
(0.8, 0.8, 0.8, 0.2). The composition alone: 0.011 / 0.058 / 0.086 and 0.015 / 0.100 / 0.186. Measured by
``benchmarks/colour.py``.
"""

from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor

# Luma as torchvision weighs it.
GREY = (0.2989, 0.587, 0.114)

# Keeps the fit of `correction` from inventing what few or similar colours say nothing about. Beside the variance of a
# picture's colours, about 0.05, it is small.
RIDGE = 1e-3


def colour_matrix(jitter: Tensor, order: Tensor, grey: Tensor, mean: Tensor) -> Tensor:
    """Composes the jitter steps in the order drawn, then grey, into affine maps of RGB in 0..1, ``[N, 3, 4]``.

    Nothing is clamped, and hue is a rotation about the grey axis.

    Args:
        jitter: ``[N, 4]``, brightness, contrast and saturation factors and hue shift in turns.
        order: int64 ``[N, 4]``, the order in which they are applied.
        grey: bool ``[N]``.
        mean: ``[N, 3]``, the mean colour of the crop, which contrast blends with.
    """
    basis = _basis(mean.device)  # identity, grey, ones, cross product
    to_grey = basis[1]
    brightness, contrast, saturation, hue = jitter.unbind(1)
    zero, angle = torch.zeros_like(hue), 2 * pi * hue
    coefficients = torch.stack(
        [
            *(brightness, zero, zero, zero),
            *(contrast, zero, zero, zero),
            *(saturation, 1 - saturation, zero, zero),
            *(angle.cos(), zero, (1 - angle.cos()) / 3, angle.sin() / sqrt(3)),
        ],
        1,
    ).view(-1, 4, 4)
    steps = (coefficients @ basis.view(4, 9)).gather(1, order[:, :, None].expand(-1, -1, 9)).view(-1, 4, 3, 3)
    # Contrast is the one step that adds something: a part of the grey of the mean colour it finds.
    added = torch.stack([zero, 1 - contrast, zero, zero], 1).gather(1, order)
    homogeneous = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)[:, :, None]  # [B, 4, 1]
    affine = torch.eye(3, 4, device=mean.device).expand(len(mean), 3, 4)
    for step in range(4):
        mean_grey = to_grey[:1] @ (affine @ homogeneous)  # [B, 1, 1]
        affine = steps[:, step] @ affine
        affine[:, :, 3:] += added[:, step, None, None] * mean_grey
    return torch.where(grey[:, None, None], to_grey @ affine, affine)


def correction(colours: Tensor, jitter: Tensor, order: Tensor, grey: Tensor) -> Tensor:
    """What to add to ``colour_matrix`` so that, clamped, it comes near torchvision's steps, ``[N, 3, 4]``.

    One ridge regression, for each view, of what composition and clamp leave of the difference on some of its colours.

    Args:
        colours: ``[N, 3, P]``, RGB in 0..1 at P points of the crop.
        jitter, order, grey: as for ``colour_matrix``.
    """
    homogeneous = torch.cat([colours, torch.ones_like(colours[:, :1])], 1)  # [N, 4, P]
    composed = (colour_matrix(jitter, order, grey, colours.mean(2)) @ homogeneous).clamp(0, 1)
    missing = step_by_step(colours, jitter, order, grey) - composed
    points = colours.shape[2]
    moments = homogeneous @ homogeneous.mT / points + RIDGE * torch.eye(4, device=colours.device)
    # _ex: an error check would wait for a GPU, and with the ridge there is nothing to find.
    fitted: Tensor = torch.linalg.solve_ex(moments, homogeneous @ missing.mT / points).result  # [N, 4, 3]
    return fitted.mT


def step_by_step(colours: Tensor, jitter: Tensor, order: Tensor, grey: Tensor) -> Tensor:
    """torchvision's ``adjust_…`` functions and ``rgb_to_grayscale``, each image of a batch with numbers of its own.

    Args:
        colours: ``[N, 3, P]``, RGB in 0..1; all pixels of an image, or some to stand for it.
        jitter, order, grey: as for ``colour_matrix``.
    """
    luma_of = _basis(colours.device)[1, :1]
    for kind, amount in zip(order.T, jitter.gather(1, order).T, strict=True):
        kind, amount = kind[:, None, None], amount[:, None, None]
        luma = luma_of @ colours
        beside = torch.where(kind == 2, luma, (kind == 1) * luma.mean(2, keepdim=True))  # brightness blends with black
        blended = (amount * colours + (1 - amount) * beside).clamp(0, 1)
        colours = torch.where(kind == 3, turn_hue(colours, amount), blended)
    return torch.where(grey[:, None, None], luma_of @ colours, colours)


def turn_hue(colours: Tensor, turns: Tensor) -> Tensor:
    """Adds to the hue in HSV.

    Args:
        colours: ``[N, 3, P]``, RGB.
        turns: ``[N, 1, 1]``.
    """
    high, low = colours.amax(1), colours.amin(1)  # [N, P]
    chroma = high - low
    red, green, blue = colours.unbind(1)
    apart = chroma.clamp(min=1e-12)  # of a grey, which has no hue, anything may come: its chroma of 0 hides it
    hue = torch.where(
        red == high,
        (green - blue) / apart,
        torch.where(green == high, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )  # in sixths of a turn
    of_channel = torch.arange(5, 0, -2, device=colours.device)[:, None]  # red, green, blue: 5, 3, 1
    sixths = (hue[:, None] + 6 * turns + of_channel) % 6  # [N, 3, P]
    return high[:, None] - chroma[:, None] * torch.minimum(sixths, 4 - sixths).clamp(0, 1)


@lru_cache(maxsize=8)
def _basis(device: torch.device) -> Tensor:
    """What the steps are made of, ``[4, 3, 3]``; kept on the device, since a copy would wait for it."""
    cross = [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]
    identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    return torch.tensor([identity, [list(GREY)] * 3, [[1.0] * 3] * 3, cross], device=device)
