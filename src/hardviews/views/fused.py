"""Renders views on a GPU with the kernels of ``kernels.py``: the same views as ``geometry.py`` and ``colour.py``, in a
few launches.

Kernels read images in place from the buffer, without padding or matrices. Each kernel is a custom torch operation that
writes into its last argument, so torch's dispatch modes see it.

Shapes: B images, V views of each, S the side of a view, P pixels in the buffer.
"""

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import custom_op

from hardviews.views import kernels
from hardviews.views.colour import RIDGE, Steps, steps_of
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Photometric, Slot
from hardviews.views.resampling import REACH, kernel_at

TILE = 32  # side in pixels of the tile that one program resizes
ROWS = 16  # rows of the image per iteration: the minimum that tl.dot takes
BLOCK = 1024  # numbers or pixels per program in the other kernels


def resampled(
    images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slot: Slot, out: Tensor, *, placed: Tensor
) -> Tensor:
    """Same as ``geometry.by_matrices``.

    Args:
        placed: float64 ``[B, 5]``: width, height, width, height of each image, and the position of its first pixel in
            the buffer.
    """
    views, batch, _, _, side = out.shape
    sums = out.new_empty(views, batch, triton.cdiv(side, TILE) ** 2, 3)
    resize(images.pixels, placed, boxes, flip.contiguous(), slot.interpolation == "bicubic", out, sums)
    if slot.photometric.blur_p > 0:
        half = kernel_at(slot.photometric.blur_kernel, slot.size, side) // 2
        along = torch.empty_like(out)
        blur(out, sigma, 1, half, along)
        blur(along, sigma, side, half, out)
    return sums.sum(2) / side**2


def fitted(
    images: ImageBatch, placed: Tensor, boxes: Tensor, steps: Steps, grey: Tensor, mean: Tensor, points: int
) -> Tensor:
    """Same as ``colour.fitted``: affine maps ``[V, B, 3, 4]``.

    Args:
        placed: as for ``resampled``.
        boxes: ``[V, B, 4]``, of all slots, in pixels.
        steps: of V · B views.
        grey: bool ``[V · B]``.
        mean: ``[V · B, 3]``, 0..1.
        points: side of the grid of sampled colours in each crop; a power of 2.
    """
    affine = mean.new_empty(*boxes.shape[:2], 3, 4)
    fit(images.pixels, placed, boxes, steps.maps, steps.is_hue, steps.turns, grey, mean, points, affine)
    return affine


def compile_for(device: torch.device, points: int) -> None:
    """Renders one small view to check that Triton can compile. This compiles the kernels of usual views ahead of time.

    Raises:
        Exception: Triton or the compiler it calls failed; the type varies.
    """
    images = ImageBatch.pack([torch.zeros(32, 32, 3, dtype=torch.uint8)]).to(device)
    placed, box = (
        torch.tensor([x], dtype=torch.float64, device=device) for x in ([32, 32, 32, 32, 0], [[0, 0, 32, 32]])
    )
    no, one = torch.zeros(1, 1, dtype=torch.bool, device=device), torch.ones(1, 1, device=device)
    slot = Slot(keep=1, size=32, photometric=Photometric(blur_p=1, blur_kernel=3))
    out = torch.empty(1, 1, 3, 32, 32, device=device)
    means = resampled(images, box, no, one, slot, out, placed=placed)
    steps = steps_of(torch.ones(1, 4, device=device), torch.zeros(1, 4, dtype=torch.int64, device=device))
    affine = fitted(images, placed, box, steps, no[0], means[0], points)
    finish(affine, no, 0.5, [0.0] * 3, [1.0] * 3, out)


def _on(device: torch.device) -> Any:
    """Makes the device current: Triton launches on the current device, wherever the tensors are. Tests interpret the
    kernels on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@custom_op("hardviews::resize", mutates_args=("out", "sums"))
def resize(
    pixels: Tensor, placed: Tensor, boxes: Tensor, flip: Tensor, bicubic: bool, out: Tensor, sums: Tensor
) -> None:
    """Crops, resizes and flips into ``out``, ``[V, B, 3, S, S]``, and sums the colours of every tile of the views into
    ``[V, B, tiles, 3]``."""
    side, reach = out.shape[-1], REACH["bicubic" if bicubic else "bilinear"]
    tiles = triton.cdiv(side, TILE)
    with _on(out.device):
        kernels.resize[(flip.numel(), tiles**2)](
            pixels, placed, boxes, flip, out, sums, len(placed), side, tiles, reach, bicubic, TILE, ROWS
        )


@custom_op("hardviews::blur", mutates_args=("out",))
def blur(views: Tensor, sigma: Tensor, step: int, half: int, out: Tensor) -> None:
    """Blurs along columns (step S) or rows (step 1), ``half`` pixels to each side; writes only the views whose sigma is
    above 0."""
    side = out.shape[-1]
    with _on(out.device):
        kernels.blur[(sigma.numel(), triton.cdiv(3 * side**2, BLOCK))](views, sigma, out, side, step, half, BLOCK)


@custom_op("hardviews::fit", mutates_args=("affine",))
def fit(
    pixels: Tensor, placed: Tensor, boxes: Tensor, maps: Tensor, is_hue: Tensor, turns: Tensor, grey: Tensor,
    mean: Tensor, points: int, affine: Tensor,
) -> None:  # fmt: skip
    with _on(affine.device):
        kernels.fit[(grey.numel(),)](
            pixels, placed, boxes, maps, is_hue, turns, turns.stride(0), grey, mean, affine, len(placed),
            RIDGE * points**2, points, num_warps=1,
        )  # fmt: skip


@custom_op("hardviews::finish", mutates_args=("out",))
def finish(
    affine: Tensor, solarize: Tensor, threshold: float, mean: list[float], std: list[float], out: Tensor
) -> None:
    """Applies colours ``[V, B, 3, 4]``, clamp, solarize and normalisation to ``[V, B, 3, S, S]``, in place."""
    plane = out.shape[-1] ** 2
    with _on(out.device):
        kernels.finish[(solarize.numel(), triton.cdiv(plane, BLOCK))](
            out, affine, solarize.contiguous(), plane, threshold, *mean, *std, BLOCK
        )
