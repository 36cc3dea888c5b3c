"""Crop, antialiased resize, flip and Gaussian blur along one axis: as taps (which pixels, with what weights), and as
matrices ``[out, in]``; one per image."""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.plan import Interpolation

# How far a filter reaches from its centre, in pixels of the coarser of the two grids.
REACH = {"bilinear": 1, "bicubic": 2}


class Taps(NamedTuple):
    """A resampling of an axis: pixel i of the view is the sum over taps of ``weight`` times pixel ``source``."""

    source: Tensor  # int64 [..., side, taps]
    weight: Tensor  # float32 [..., side, taps]


def resize_taps(
    start: Tensor, length: Tensor, flip: Tensor, side: int, interpolation: Interpolation, shrinking: float
) -> Taps:
    """Cuts a stretch out of an axis and resizes it, as torchvision with antialias.

    A pixel of the view is a weighted mean of the crop's pixels around its place; weights follow the triangle or the
    cubic (a = -0.5), widened where the view is coarser than the crop, and those outside the crop are left out.

    Args:
        start, length: float64 ``[B]``, the crop in whole pixels.
        flip: bool ``[B]``, whether the view runs backwards.
        side: pixels of the view.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        shrinking: the most pixels of a crop to a pixel of its view.

    Returns:
        ``[B, side, taps]``, indices within the axis; those with weight 0 may be any within the crop.
    """
    scale = (length / side)[:, None]  # pixels of the crop per pixel of the view, [B, 1]
    widening = scale.clamp_min(1)
    place = torch.arange(side, device=start.device)
    centre = (torch.where(flip[:, None], side - 1 - place, place) + 0.5) * scale  # within the crop, [B, side]
    first = (centre - REACH[interpolation] * widening + 0.5).floor_()
    taps = torch.arange(taps_of(shrinking, interpolation), device=start.device)
    # Differences in float64, then small enough for float32.
    distance = (first + 0.5 - centre).float()[:, :, None] + taps  # [B, side, taps]
    pixel = first.long()[:, :, None] + taps
    last = length.long()[:, None, None] - 1
    inside = (pixel >= 0) & (pixel <= last)
    shape = {"bilinear": _triangle, "bicubic": _cubic}[interpolation]
    weight = shape(distance / widening.float()[:, :, None]) * inside
    # In float64, where it does not depend on how many zeros there are.
    weight /= weight.sum(-1, keepdim=True, dtype=torch.float64)
    return Taps(torch.minimum(pixel.clamp_min_(0), last) + start.long()[:, None, None], weight)


def taps_of(shrinking: float, interpolation: Interpolation) -> int:
    """How many taps a filter needs that has so many pixels of the crop to a pixel of the view."""
    return 2 * ceil(REACH[interpolation] * max(shrinking, 1)) + 1


def blur_taps(sigma: Tensor, side: int, kernel: int) -> Taps:
    """A Gaussian blur with reflected borders, as torchvision's ``gaussian_blur``: source ``[side, kernel]``, the same
    for all views, and weight ``[B, kernel]``, the same for all pixels.

    Args:
        sigma: float32 ``[B]``, standard deviation in pixels; 0 gives the identity, exactly.
        side: pixels of the view.
        kernel: width of the kernel in pixels, odd, see ``kernel_at``.
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2
    # At 0.01 pixels the neighbours' weights are 0 in float32 already.
    return Taps(
        _reflected(side, kernel, sigma.device), (-0.5 * (offset / sigma.clamp_min(0.01)[:, None]).square()).softmax(1)
    )


def resize_matrix(
    start: Tensor, length: Tensor, flip: Tensor, extent: int, side: int, interpolation: Interpolation
) -> Tensor:
    """``resize_taps`` as matrices ``[B, side, extent]``, for an axis of ``extent`` pixels."""
    # The widest filter any crop can need: known from shapes, so that a GPU need not be asked for its boxes.
    source, weight = resize_taps(start, length, flip, side, interpolation, extent / side)
    return weight.new_zeros(len(start), side, extent).scatter_add_(2, source, weight)


def blur_matrix(sigma: Tensor, side: int, kernel: int) -> Tensor:
    """``blur_taps`` as matrices ``[B, side, side]``."""
    source, weight = blur_taps(sigma, side, kernel)
    matrix = weight.new_zeros(len(sigma), side, side)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), weight[:, None].expand(-1, side, -1))


def kernel_at(kernel: int | None, full: int, side: int) -> int:
    """Width of the blur's kernel, odd, for a view of ``full`` pixels that is rendered with ``side`` pixels.

    Args:
        kernel: width at full size; None takes the odd number nearest a tenth of the view, at least 3.
    """
    width = max(_nearest_odd(full / 10), 3) if kernel is None else kernel
    if side != full:
        width = max(_nearest_odd(width * side / full), 3)
    return min(width, 2 * side - 1)  # a border can't reflect more than there is


def _nearest_odd(number: float) -> int:
    return 2 * int(number / 2) + 1


@lru_cache(maxsize=32)
def _reflected(side: int, kernel: int, device: torch.device) -> Tensor:
    """The pixels around every pixel, borders reflected: ``[side, kernel]``."""
    half = kernel // 2
    pixels = torch.arange(side, dtype=torch.float32, device=device)[None, None]
    return F.pad(pixels, (half, half), mode="reflect")[0, 0].long().unfold(0, kernel, 1)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp_min_(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
