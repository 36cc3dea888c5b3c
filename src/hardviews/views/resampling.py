"""Crop, antialiased resize, flip and Gaussian blur along one axis, per image: as taps (source pixels and weights) or as
matrices ``[out, in]``."""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.plan import Interpolation

# A filter's radius, in pixels of the coarser of the two grids.
REACH = {"bilinear": 1, "bicubic": 2}


class Taps(NamedTuple):
    """A resampling of an axis: pixel i of the view is the sum over taps of ``weight`` times pixel ``source``."""

    source: Tensor  # int64 [..., side, taps]
    weight: Tensor  # float32 [..., side, taps]


def resize_taps(
    start: Tensor, length: Tensor, flip: Tensor, side: int, interpolation: Interpolation, shrinking: float
) -> Taps:
    """Crops and resizes along one axis, as torchvision does with antialiasing.

    A pixel of the view is a weighted mean of the crop's pixels around its position. The weights follow the triangle or
    cubic filter (a = -0.5), widened where the view is coarser than the crop; pixels outside the crop are left out.

    Args:
        start, length: float64 ``[...]``, the crop in whole pixels.
        flip: bool ``[...]``, whether the view is mirrored.
        side: pixels of the view.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        shrinking: the largest number of crop pixels per pixel of the view.

    Returns:
        ``[..., side, taps]``: indices within the axis, and weights. A tap of weight 0 may have any index in the crop.
    """
    start, length, flip = start[..., None], length[..., None], flip[..., None]
    scale = length / side  # pixels of the crop per pixel of the view
    widening = scale.clamp_min(1)
    forwards, backwards, taps = _places(side, taps_of(shrinking, interpolation), start.device)
    centre = torch.where(flip, backwards, forwards) * scale  # within the crop, [..., side]
    first = centre.sub(widening, alpha=REACH[interpolation]).add_(0.5).floor_()
    pixel = first[..., None] + taps  # [..., side, taps]
    # Subtract in float64; the difference is small enough for float32.
    distance = ((pixel - (centre - 0.5)[..., None]) / widening[..., None]).float()
    inside = torch.minimum(pixel.clamp_min(0), length[..., None] - 1)  # the nearest pixel inside the crop
    shape = {"bilinear": _triangle, "bicubic": _cubic}[interpolation]
    weight = shape(distance) * (inside == pixel)
    # Sum in float64, so that the number of zero weights does not change the rounding.
    weight /= weight.sum(-1, keepdim=True, dtype=torch.float64)
    return Taps((inside + start[..., None]).long(), weight)


@lru_cache(maxsize=64)
def _places(side: int, taps: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres of a view, forwards and mirrored, and the tap indices, in float64."""
    with torch.inference_mode(False):
        forwards = torch.arange(side, dtype=torch.float64, device=device) + 0.5
        return forwards, side - forwards, torch.arange(taps, dtype=torch.float64, device=device)


def taps_of(shrinking: float, interpolation: Interpolation) -> int:
    """Number of taps that a filter needs at ``shrinking`` crop pixels per pixel of the view."""
    return 2 * ceil(REACH[interpolation] * max(shrinking, 1)) + 1


def blur_taps(sigma: Tensor, side: int, kernel: int) -> Taps:
    """A Gaussian blur with reflected borders, as torchvision's ``gaussian_blur``: source ``[side, kernel]``, shared by
    all views, and weight ``[..., kernel]``, shared by all pixels.

    Args:
        sigma: float32 ``[...]``, standard deviation in pixels; 0 gives the identity, exactly.
        side: pixels of the view.
        kernel: width of the kernel in pixels, odd; see ``kernel_at``.
    """
    source, offset = _reflected(side, kernel, sigma.device)
    # At a sigma of 0.01 pixels the neighbours' float32 weights are already 0.
    return Taps(source, (offset / sigma.clamp_min(0.01)[..., None]).square_().mul_(-0.5).softmax(-1))


def as_matrix(source: Tensor, weight: Tensor, extent: int) -> Tensor:
    """Taps as matrices ``[..., side, extent]``, for an axis of ``extent`` pixels."""
    source, weight = torch.broadcast_tensors(source, weight)  # type: ignore[no-untyped-call]
    return weight.new_zeros(*weight.shape[:-1], extent).scatter_add_(-1, source, weight)


def kernel_at(kernel: int | None, full: int, side: int) -> int:
    """Width of the blur kernel, odd, for a view of ``full`` pixels rendered at ``side`` pixels.

    Args:
        kernel: width at full size; None for the odd number nearest a tenth of the view, at least 3.
    """
    width = max(_nearest_odd(full / 10), 3) if kernel is None else kernel
    if side != full:
        width = max(_nearest_odd(width * side / full), 3)
    return min(width, 2 * side - 1)  # reflection needs at least this many pixels


def _nearest_odd(number: float) -> int:
    return 2 * int(number / 2) + 1


@lru_cache(maxsize=32)
def _reflected(side: int, kernel: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every pixel, the indices of its neighbours with reflected borders, ``[side, kernel]``, and their distances,
    ``[kernel]``."""
    half = kernel // 2
    with torch.inference_mode(False):
        pixels = torch.arange(side, dtype=torch.float32, device=device)[None, None]
        source = F.pad(pixels, (half, half), mode="reflect")[0, 0].long().unfold(0, kernel, 1)
        return source, torch.arange(-half, half + 1, device=device)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp_min_(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
