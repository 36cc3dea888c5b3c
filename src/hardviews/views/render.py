"""Turns views into pixels, on the device where the images are: two matrix products and one colour matrix per view.

A view is ``R_y · image · R_xᵀ``, where R_y and R_x crop, resize, flip and blur; see ``resampling.py``. On a CPU torch's
own resize is faster for all but small pictures, since it reads nothing outside the crop and skips the zeros in R.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.colour import colour_matrix, correction
from hardviews.views.draw import Views
from hardviews.views.exact import exact_view
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan, size_at
from hardviews.views.resampling import blur_matrix, blurred, kernel_at, resize_matrix

# Images are rendered in chunks of about this many pixels (the largest image of the batch counts for all), whose float
# copy takes 12 bytes each. On a CPU: 12 MB, so that a chunk stays near the cache while all its views are rendered.
# Elsewhere: 400 MB, enough to fill a GPU, and little beside a training step's activations.
CHUNK_PIXELS = {"cpu": 2**20}
CHUNK_PIXELS_ELSEWHERE = 2**25

# Pictures of more pixels than this are resized one by one on a CPU. `benchmarks/rendering.py` has figures of both ways.
ONE_BY_ONE_PIXELS = 2**12

# Colours are fitted to torchvision's at a grid of this many points a side of every crop; 16 fit no better.
POINTS = 8


@torch.no_grad()
def render(images: ImageBatch, views: Views, plan: ViewPlan, resolution: float = 1.0) -> list[Tensor]:
    """Renders views.

    With ``plan.colour == "matrix"`` crop, resize, flip and blur agree with torchvision's to rounding, colours about as
    ``colour.py`` states for photographs, and nothing waits for a GPU. What the plan gives no chance (a jitter of 0,
    a blur with ``blur_p`` 0) is not looked for in ``views``. With ``"exact"`` torchvision's own functions are called,
    step by step and image by image.

    Args:
        images: B images of any sizes; the result is on their device.
        views: K views of each, drawn from ``plan``; moved to the images' device if they are elsewhere.
        plan: sizes, interpolation, blur kernels, normalisation.
        resolution: renders the same views at this part of their size (see ``size_at``), blur widths scaled along.

    Returns:
        K tensors, float32 ``[B, 3, h, w]``, contiguous, normalised with the plan's mean and std.
    """
    slots = [plan.slots[slot] for slot in views.slot.tolist()]
    sides = [size_at(plan, slot, resolution) for slot in slots]
    out = [torch.empty(len(images), 3, side, side, device=images.device) for side in sides]
    if len(images) == 0:
        return out
    # Autocast, where the caller's loop has it on, would round the resampling to 16 bits.
    with torch.autocast(images.device.type, enabled=False):
        if plan.colour == "exact":
            _render_exact(images, views.to("cpu"), plan, slots, out)
        else:
            _render_matrix(images, views.to(images.device, non_blocking=True), plan, slots, out)
    return out


def _render_exact(images: ImageBatch, views: Views, plan: ViewPlan, slots: list[Slot], out: list[Tensor]) -> None:
    mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (plan.mean, plan.std))
    for b in range(len(images)):
        image = images.image(b)
        for v, slot in enumerate(slots):
            out[v][b] = (exact_view(image, views, v, b, slot, out[v].shape[-1]) - mean) / std


def _render_matrix(images: ImageBatch, views: Views, plan: ViewPlan, slots: list[Slot], out: list[Tensor]) -> None:
    size = images.size.to(images.device, non_blocking=True)
    pixels = int(images.size.amax(0).prod())
    step = max(CHUNK_PIXELS.get(images.device.type, CHUNK_PIXELS_ELSEWHERE) // pixels, 1)
    resample = _one_by_one if images.device.type == "cpu" and pixels > ONE_BY_ONE_PIXELS else _by_matrices
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        pictures = images[part].padded()  # [b, 3, H, W]
        if resample is _by_matrices:
            pictures = pictures.to(torch.float32, memory_format=torch.contiguous_format)
        numbers = views[part]
        boxes = (numbers.box * size[part].flip(1).repeat(1, 2)).round()  # x0, y0, x1, y1 in pixels, [V, b, 4]
        # For all views at once: it is many small operations.
        corrections = _corrections(pictures, boxes, numbers) if any(map(_jitters, slots)) else None
        for v, slot in enumerate(slots):
            side = out[v].shape[-1]
            sigma = numbers.blur[v] * (side / slot.size) if slot.photometric.blur_p > 0 else None
            view, mean = resample(pictures, boxes[v], numbers.flip[v], sigma, slot, side)
            affine = _colours(mean, numbers, v, slot)
            if corrections is not None and _jitters(slot):
                affine = affine + corrections[v]
            _finish(view, affine, numbers.solarize[v], slot, plan, out[v][part])


def _by_matrices(
    pictures: Tensor, box: Tensor, flip: Tensor, sigma: Tensor | None, slot: Slot, side: int
) -> tuple[Tensor, Tensor]:
    """Crop, resize, flip and blur of b images by two matrix products; nothing waits for a GPU.

    Args:
        pictures: float32 ``[b, 3, H, W]``, 0..255.
        box: ``[b, 4]`` in pixels.
        flip: bool ``[b]``.
        sigma: ``[b]``, of the blur in pixels of the view; None for none at all.
        slot: interpolation and blur kernel.
        side: pixels of the view.

    Returns:
        The view ``[b, 3, side, side]``, 0..255, and its mean colour before the blur ``[b, 3]``.
    """
    batch, _, height, width = pictures.shape
    start, length = box[:, :2], box[:, 2:] - box[:, :2]
    rows = resize_matrix(
        start[:, 1], length[:, 1], torch.zeros_like(flip), height, side, slot.interpolation
    )  # [b, h, H]
    columns = resize_matrix(start[:, 0], length[:, 0], flip, width, side, slot.interpolation)  # [b, w, W]
    mean = torch.zeros(batch, 3, device=pictures.device)
    if _jitters(slot) and slot.photometric.contrast > 0:
        # The mean rows of both matrices, applied to the picture.
        along = torch.bmm(pictures.view(batch, 3 * height, width), columns.mean(1)[:, :, None]).view(batch, 3, height)
        mean = (along @ rows.mean(1)[:, :, None])[:, :, 0]
    if sigma is not None:
        blur = blur_matrix(sigma, side, kernel_at(slot.photometric.blur_kernel, slot.size, side))
        rows, columns = blur @ rows, blur @ columns
    if height <= width:  # shorten the longer axis first
        half = torch.bmm(pictures.view(batch, 3 * height, width), columns.mT).view(batch, 3, height, side)
        return rows[:, None] @ half, mean
    half = rows[:, None] @ pictures  # [b, 3, h, W]
    return torch.bmm(half.view(batch, 3 * side, width), columns.mT).view(batch, 3, side, side), mean


def _one_by_one(
    pictures: Tensor, box: Tensor, flip: Tensor, sigma: Tensor | None, slot: Slot, side: int
) -> tuple[Tensor, Tensor]:
    """The same as ``_by_matrices`` of pictures of any type, by torch's own resize."""
    view = torch.empty(len(pictures), 3, side, side)
    for b, ((x0, y0, x1, y1), backwards) in enumerate(zip(box.int().tolist(), flip.tolist(), strict=True)):
        crop = pictures[b : b + 1, :, y0:y1, x0:x1].float()
        resized = F.interpolate(crop, (side, side), mode=slot.interpolation, align_corners=False, antialias=True)
        view[b] = resized[0].flip(-1) if backwards else resized[0]
    mean = view.mean((2, 3))
    if sigma is not None:
        (some,) = (sigma > 0).nonzero(as_tuple=True)
        if len(some):
            kernel = kernel_at(slot.photometric.blur_kernel, slot.size, side)
            view[some] = blurred(view[some], sigma[some], kernel)
    return view, mean


def _finish(view: Tensor, affine: Tensor, solarize: Tensor, slot: Slot, plan: ViewPlan, out: Tensor) -> None:
    """Colours, clamp, solarize and normalisation of a view ``[b, 3, h, w]``, 0..255, into ``out``."""
    # Colours and normalisation in one product. The normalisation's images of 0 and 1 are what is clamped to.
    mean, std, black, white, threshold = _normalisation(
        plan.mean, plan.std, slot.photometric.solarize_threshold, out.device
    )
    flat = out.view(len(out), 3, -1)
    torch.baddbmm((affine[:, :, 3:] - mean) / std, affine[:, :, :3] / (255 * std), view.flatten(2), out=flat)
    # On a CPU this is 8 times as fast as clamp with tensors.
    torch.minimum(torch.maximum(flat, black, out=flat), white, out=flat)
    if slot.photometric.solarize_p > 0:
        inverted = solarize[:, None, None] & (flat >= threshold)
        flat.copy_(torch.where(inverted, black + white - flat, flat))


def _jitters(slot: Slot) -> bool:
    look = slot.photometric
    return look.jitter_p > 0 and max(look.brightness, look.contrast, look.saturation, look.hue) > 0


def _corrections(pictures: Tensor, boxes: Tensor, views: Views) -> Tensor:
    """``correction`` for all views, from a grid of points of each crop, ``[V, b, 3, 4]``."""
    count, batch, _ = boxes.shape
    centres = (torch.arange(POINTS, device=boxes.device) + 0.5) / POINTS
    start, length = boxes[..., :2, None], (boxes[..., 2:] - boxes[..., :2])[..., None]
    x, y = (start + length * centres).long().unbind(2)  # [V, b, POINTS]
    image = torch.arange(batch, device=boxes.device)[:, None, None]
    colours = pictures.movedim(1, 3)[image, y[..., None], x[:, :, None]] / 255  # [V, b, POINTS, POINTS, 3]
    flat = colours.view(count * batch, -1, 3).mT.contiguous()
    numbers = (views.jitter.flatten(0, 1), views.order.flatten(0, 1), views.grey.flatten(0, 1))
    return correction(flat, *numbers).view(count, batch, 3, 4)


def _colours(mean: Tensor, views: Views, v: int, slot: Slot) -> Tensor:
    """The affine map of the colours of view v, ``[b, 3, 4]``, of views whose mean colours are given, 0..255."""
    if not _jitters(slot) and slot.photometric.grey_p == 0:
        return torch.eye(3, 4, device=mean.device).expand(len(mean), 3, 4)
    return colour_matrix(views.jitter[v], views.order[v], views.grey[v], mean / 255)


@lru_cache(maxsize=32)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], threshold: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, std, and what 0, 1 and a threshold become, ``[3, 1]`` each. Kept: copying them would wait for a GPU."""
    m, s = torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
    return m, s, -m / s, (1 - m) / s, (threshold - m) / s
