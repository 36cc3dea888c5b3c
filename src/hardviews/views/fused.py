"""Rendering on a GPU by the kernels of ``kernels.py``: in a few launches, the views that ``geometry.py`` and
``colour.py`` give.

Images are read as they lie in the buffer: nothing is padded, and no matrix is made. Every kernel is an operation of
torch's, so that torch's modes see it: it writes into its last argument.

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

TILE = 32  # pixels a side of a part of a view that one program resizes
ROWS = 16  # of the image, which it shrinks at once: the fewest that tl.dot takes
BLOCK = 1024  # numbers, or pixels, that one program of another kernel takes


def resampled(
    images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slot: Slot, out: Tensor, *, placed: Tensor
) -> Tensor:
    """As ``geometry.by_matrices``.

    Args:
        placed: float64 ``[B, 5]``, width, height, width, height of the images, and the place of their first pixel in
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
    """As ``colour.fitted``: affine maps ``[V, B, 3, 4]``.

    Args:
        placed: as for ``resampled``.
        boxes: ``[V, B, 4]``, of all slots, in pixels.
        steps: of V · B views.
        grey: bool ``[V · B]``.
        mean: ``[V · B, 3]``, 0..1.
        points: a side of the grid of colours of each crop that the maps are fitted to; a power of 2.
    """
    affine = mean.new_empty(*boxes.shape[:2], 3, 4)
    fit(images.pixels, placed, boxes, steps.maps, steps.is_hue, steps.turns, grey, mean, points, affine)
    return affine


def compile_for(device: torch.device) -> None:
    """Makes one small view, so that Triton shows whether it can.

    Raises:
        Exception: it can't: of any kind that Triton and the compiler it calls may raise.
    """
    images = ImageBatch.pack([torch.zeros(8, 8, 3, dtype=torch.uint8)]).to(device)
    placed, box = (torch.tensor([x], dtype=torch.float64, device=device) for x in ([8, 8, 8, 8, 0], [[0, 0, 8, 8]]))
    no, one = torch.zeros(1, 1, dtype=torch.bool, device=device), torch.ones(1, 1, device=device)
    slot = Slot(keep=1, size=8, photometric=Photometric(blur_p=1, blur_kernel=3))
    out = torch.empty(1, 1, 3, 8, 8, device=device)
    means = resampled(images, box, no, one, slot, out, placed=placed)
    steps = steps_of(torch.ones(1, 4, device=device), torch.zeros(1, 4, dtype=torch.int64, device=device))
    affine = fitted(images, placed, box, steps, no[0], means[0], 2)
    finish(affine, no, 0.5, [0.0] * 3, [1.0] * 3, out)


def _on(device: torch.device) -> Any:
    """Triton launches on the current device, wherever the tensors are. On a CPU its interpreter runs, in tests."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@custom_op("hardviews::resize", mutates_args=("out", "sums"))
def resize(
    pixels: Tensor, placed: Tensor, boxes: Tensor, flip: Tensor, bicubic: bool, out: Tensor, sums: Tensor
) -> None:
    """Crops, resizes and flips into ``out``, ``[V, B, 3, S, S]``, and sums the colours of every tile of the views,
    ``[V, B, tiles, 3]``."""
    side, reach = out.shape[-1], REACH["bicubic" if bicubic else "bilinear"]
    tiles = triton.cdiv(side, TILE)
    with _on(out.device):
        kernels.resize[(flip.numel(), tiles**2)](
            pixels, placed, boxes, flip, out, sums, len(placed), side, tiles, reach, bicubic, TILE, ROWS
        )


@custom_op("hardviews::blur", mutates_args=("out",))
def blur(views: Tensor, sigma: Tensor, step: int, half: int, out: Tensor) -> None:
    """Blurs along columns (step S) or rows (step 1), with a kernel that reaches ``half`` pixels; writes only the views
    whose sigma is above 0."""
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
    """Colours ``[V, B, 3, 4]``, clamp, solarize and normalisation of ``[V, B, 3, S, S]``, in place."""
    plane = out.shape[-1] ** 2
    with _on(out.device):
        kernels.finish[(solarize.numel(), triton.cdiv(plane, BLOCK))](
            out, affine, solarize.contiguous(), plane, threshold, *mean, *std, BLOCK
        )
