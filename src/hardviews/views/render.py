"""Turns views into pixels, on the device where the images are: two matrix products and one colour matrix per view.

A view is ``R_y · image · R_xᵀ``, where R_y and R_x crop, resize, flip and blur; see ``resampling.py``.
"""

from functools import lru_cache

import torch
from torch import Tensor

from hardviews.views.colour import colour_matrix, correction
from hardviews.views.draw import Views
from hardviews.views.exact import exact_view
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan, size_at
from hardviews.views.resampling import blur_matrix, kernel_at, resize_matrix

# Images are rendered in chunks of about this many pixels (the largest image of the batch counts for all), whose float
# copy takes 12 bytes each. On a CPU: 12 MB, so that a chunk stays near the cache while all its views are rendered.
# Elsewhere: 400 MB, enough to fill a GPU, and little beside a training step's activations.
CHUNK_PIXELS = {"cpu": 2**20}
CHUNK_PIXELS_ELSEWHERE = 2**25

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
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        pictures = (
            images[part].padded().to(torch.float32, memory_format=torch.contiguous_format)
        )  # [b, 3, H, W], 0..255
        numbers = views[part]
        boxes = (numbers.box * size[part].flip(1).repeat(1, 2)).round()  # x0, y0, x1, y1 in pixels, [V, b, 4]
        # For all views at once: it is many small operations.
        corrections = _corrections(pictures, boxes, numbers) if any(map(_jitters, slots)) else None
        for v, slot in enumerate(slots):
            correction = corrections[v] if corrections is not None and _jitters(slot) else None
            _render_view(pictures, boxes[v], numbers, v, slot, correction, plan, out[v][part])


def _render_view(
    pictures: Tensor,
    box: Tensor,
    views: Views,
    v: int,
    slot: Slot,
    correction: Tensor | None,
    plan: ViewPlan,
    out: Tensor,
) -> None:
    """View v of b images ``[b, 3, H, W]`` with values 0..255, into ``out [b, 3, h, w]``."""
    batch, _, height, width = pictures.shape
    side = out.shape[-1]
    start, length = box[:, :2], box[:, 2:] - box[:, :2]
    flip = views.flip[v]
    rows = resize_matrix(
        start[:, 1], length[:, 1], torch.zeros_like(flip), height, side, slot.interpolation
    )  # [b, h, H]
    columns = resize_matrix(start[:, 0], length[:, 0], flip, width, side, slot.interpolation)  # [b, w, W]

    affine = _colours(pictures, rows, columns, views, v, slot)  # [b, 3, 4]
    if correction is not None:
        affine = affine + correction
    if slot.photometric.blur_p > 0:
        kernel = kernel_at(slot.photometric.blur_kernel, slot.size, side)
        blur = blur_matrix(views.blur[v] * (side / slot.size), side, kernel)
        rows, columns = blur @ rows, blur @ columns

    if height <= width:  # shorten the longer axis first
        half = torch.bmm(pictures.view(batch, 3 * height, width), columns.mT).view(batch, 3, height, side)
        view = rows[:, None] @ half
    else:
        half = rows[:, None] @ pictures  # [b, 3, h, W]
        view = torch.bmm(half.view(batch, 3 * side, width), columns.mT)

    # Colours and normalisation in one product. The normalisation's images of 0 and 1 are what is clamped to.
    mean, std, black, white, threshold = _normalisation(
        plan.mean, plan.std, slot.photometric.solarize_threshold, out.device
    )
    flat = out.view(batch, 3, -1)
    torch.baddbmm((affine[:, :, 3:] - mean) / std, affine[:, :, :3] / (255 * std), view.view(batch, 3, -1), out=flat)
    # On a CPU this is 8 times as fast as clamp with tensors.
    torch.minimum(torch.maximum(flat, black, out=flat), white, out=flat)
    if slot.photometric.solarize_p > 0:
        inverted = views.solarize[v][:, None, None] & (flat >= threshold)
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


def _colours(pictures: Tensor, rows: Tensor, columns: Tensor, views: Views, v: int, slot: Slot) -> Tensor:
    """The affine map of the colours of view v, ``[b, 3, 4]``; identity where the slot leaves colours alone."""
    batch, _, height, width = pictures.shape
    if not _jitters(slot) and slot.photometric.grey_p == 0:
        return torch.eye(3, 4, device=pictures.device).expand(batch, 3, 4)
    mean = torch.zeros(batch, 3, device=pictures.device)
    if _jitters(slot) and slot.photometric.contrast > 0:
        # The mean of the resized crop before blur: the mean rows of both matrices, applied to the picture.
        along = torch.bmm(pictures.view(batch, 3 * height, width), columns.mean(1)[:, :, None]).view(batch, 3, height)
        mean = (along @ rows.mean(1)[:, :, None])[:, :, 0] / 255
    return colour_matrix(views.jitter[v], views.order[v], views.grey[v], mean)


@lru_cache(maxsize=32)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], threshold: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, std, and what 0, 1 and a threshold become, ``[3, 1]`` each. Kept: copying them would wait for a GPU."""
    m, s = torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
    return m, s, -m / s, (1 - m) / s, (threshold - m) / s
