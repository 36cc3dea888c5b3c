"""Crop, antialiased resize, flip and Gaussian blur along one axis, as matrices: one per image, [out, in]."""

from functools import lru_cache
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.plan import Interpolation

# How far a filter reaches from its centre, in pixels of the coarser of the two grids.
REACH = {"bilinear": 1, "bicubic": 2}

# Rows or columns blurred at once in `blurred`.
BAND = 32


def resize_matrix(
    start: Tensor, length: Tensor, flip: Tensor, extent: int, side: int, interpolation: Interpolation
) -> Tensor:
    """Matrices ``[B, side, extent]`` that cut a stretch out of an axis and resize it, as torchvision with antialias.

    A pixel of the view is a weighted mean of the crop's pixels around its place; weights follow the triangle or the
    cubic (a = -0.5), widened where the view is coarser than the crop, and those outside the crop are left out.

    Args:
        start, length: float64 ``[B]``, the crop in whole pixels.
        flip: bool ``[B]``, whether the view runs backwards.
        extent: pixels of the axis, at least start + length.
        side: pixels of the view.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
    """
    scale = (length / side)[:, None]  # pixels of the crop per pixel of the view, [B, 1]
    widening = scale.clamp_min(1)
    place = torch.arange(side, device=start.device)
    centre = (torch.where(flip[:, None], side - 1 - place, place) + 0.5) * scale  # within the crop, [B, side]
    first = (centre - REACH[interpolation] * widening + 0.5).floor_()
    # The widest filter any crop can need: known from shapes, so that a GPU need not be asked for its boxes.
    taps = torch.arange(2 * ceil(REACH[interpolation] * max(extent / side, 1)) + 1, device=start.device)
    # Differences in float64, then small enough for float32.
    distance = (first + 0.5 - centre).float()[:, :, None] + taps  # [B, side, taps]
    pixel = first[:, :, None] + taps
    inside = (pixel >= 0) & (pixel < length[:, None, None])
    shape = {"bilinear": _triangle, "bicubic": _cubic}[interpolation]
    weight = shape(distance / widening.float()[:, :, None]) * inside
    weight = weight / weight.sum(-1, keepdim=True)
    matrix = weight.new_zeros(len(start), side, extent)
    return matrix.scatter_add_(2, (pixel + start[:, None, None]).long().clamp_(0, extent - 1), weight)


def blur_matrix(sigma: Tensor, side: int, kernel: int) -> Tensor:
    """Matrices ``[B, side, side]`` of a Gaussian blur with reflected borders, as torchvision's ``gaussian_blur``.

    Args:
        sigma: float32 ``[B]``, standard deviation in pixels; 0 gives the identity, exactly.
        side: pixels of the view.
        kernel: width of the kernel in pixels, odd, see ``kernel_at``.
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2
    # At 0.01 pixels the neighbours' weights are 0 in float32 already.
    weight = (-0.5 * (offset / sigma.clamp_min(0.01)[:, None]).square()).softmax(1)  # [B, kernel]
    return (weight @ _shifts(side, kernel, sigma.device)).view(-1, side, side)


def blurred(view: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """A Gaussian blur of views ``[B, 3, side, side]``, the product with ``blur_matrix`` without most of its zeros.

    Args:
        sigma, kernel: as for ``blur_matrix``.
    """
    side, half = view.shape[-1], kernel // 2
    matrix = blur_matrix(sigma, side, kernel)[:, None]
    down, out = torch.empty_like(view), torch.empty_like(view)
    for start in range(0, side, BAND):
        band, near = slice(start, start + BAND), slice(max(start - half, 0), start + BAND + half)
        down[:, :, band] = matrix[:, :, band, near] @ view[:, :, near]
    for start in range(0, side, BAND):
        band, near = slice(start, start + BAND), slice(max(start - half, 0), start + BAND + half)
        out[..., band] = down[..., near] @ matrix[:, :, band, near].mT
    return out


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
def _shifts(side: int, kernel: int, device: torch.device) -> Tensor:
    """For every place in the kernel the matrix that shifts an axis by it, borders reflected: ``[kernel, side²]``."""
    half = kernel // 2
    padded = F.pad(torch.eye(side, device=device)[None], (half, half), mode="reflect")[0]  # [pixel, padded place]
    return padded.unfold(1, side, 1).transpose(0, 1).transpose(1, 2).reshape(kernel, side * side)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp_min_(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
