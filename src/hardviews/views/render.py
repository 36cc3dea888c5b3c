"""Turns views into pixels, on the device where the images are: resampled (``geometry.py``), then one colour matrix per
view, one clamp, and the normalisation."""

from functools import lru_cache

import torch
from torch import Tensor

from hardviews.views.colour import colour_matrix, correction
from hardviews.views.draw import Views
from hardviews.views.exact import exact_view
from hardviews.views.geometry import by_matrices, by_taps
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan, size_at

# On a CPU, pictures of more pixels than this are resampled by taps.
TAPS_PIXELS = 2**12

# On a CPU, as many numbers of a view are coloured at once as stay near: 1 MB.
NEAR_FLOATS = 2**18

# Colours are fitted to torchvision's at a grid of this many points a side of every crop; 16 fit no better.
POINTS = 8


@torch.no_grad()
def render(images: ImageBatch, views: Views, plan: ViewPlan, resolution: float = 1.0) -> list[Tensor]:
    """Renders views.

    With ``plan.colour == "matrix"`` crop, resize, flip and blur agree with torchvision's to rounding, colours about as
    ``colour.py`` states for photographs, and nothing waits for a GPU. What no slot of the plan gives a chance (a jitter
    of 0, a blur with ``blur_p`` 0) is not looked for in ``views``. With ``"exact"`` torchvision's own functions are
    called, step by step and image by image.

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
    boxes = (views.box * size.flip(1).repeat(1, 2)).round()  # x0, y0, x1, y1 in pixels, [V, B, 4]
    shrunk = torch.tensor([view.shape[-1] / slot.size for view, slot in zip(out, slots, strict=True)])
    sigma = views.blur * shrunk[:, None].to(images.device, non_blocking=True)
    resample = by_matrices
    if images.device.type == "cpu" and int(images.size.prod(1).amax()) > TAPS_PIXELS:
        resample = by_taps
    means = resample(images, boxes, views.flip, sigma, slots, out)
    affine = _colours(images, boxes, views, means, slots)
    for v, slot in enumerate(slots):
        mean, std, black, white, threshold = _normalisation(
            plan.mean, plan.std, slot.photometric.solarize_threshold, out[v].device
        )
        # Colours and normalisation in one product. The normalisation's images of 0 and 1 are what is clamped to.
        matrix, added = affine[v, :, :, :3] / (255 * std), (affine[v, :, :, 3:] - mean) / std
        step = max(NEAR_FLOATS // out[v][0].numel(), 1) if images.device.type == "cpu" else len(images)
        for b in range(0, len(images), step):
            part = slice(b, b + step)
            flat = out[v][part].view(-1, 3, out[v].shape[-1] ** 2)
            coloured = (matrix[part] @ flat).add_(added[part])
            # On a CPU this is 8 times as fast as clamp with tensors.
            torch.minimum(torch.maximum(coloured, black, out=coloured), white, out=flat)
            if slot.photometric.solarize_p > 0:
                inverted = views.solarize[v, part, None, None] & (flat >= threshold)
                flat.copy_(torch.where(inverted, black + white - flat, flat))


def _jitters(slot: Slot) -> bool:
    look = slot.photometric
    return look.jitter_p > 0 and max(look.brightness, look.contrast, look.saturation, look.hue) > 0


def _colours(images: ImageBatch, boxes: Tensor, views: Views, means: Tensor, slots: list[Slot]) -> Tensor:
    """The affine maps of the colours, ``[V, B, 3, 4]``, for all views at once: they are many small operations.

    Args:
        boxes: ``[V, B, 4]``, in pixels.
        means: ``[V, B, 3]``, mean colours of the views, 0..255.
    """
    jitters = any(map(_jitters, slots))
    if not jitters and not any(slot.photometric.grey_p for slot in slots):
        return torch.eye(3, 4, device=images.device).expand(*means.shape, 4)
    numbers = (views.jitter.flatten(0, 1), views.order.flatten(0, 1), views.grey.flatten(0, 1))
    affine = colour_matrix(*numbers, means.flatten(0, 1) / 255).view(*means.shape, 4)
    if not jitters:
        return affine
    # What a view is like, from a grid of points of its crop.
    count, batch, _ = boxes.shape
    centres = (torch.arange(POINTS, device=boxes.device) + 0.5) / POINTS
    start, length = boxes[..., :2, None], (boxes[..., 2:] - boxes[..., :2])[..., None]
    x, y = (start + length * centres).long().unbind(2)  # [V, B, POINTS]
    place = torch.stack([images.size[:, 1], torch.tensor(images.offset[:-1])]).to(images.device, non_blocking=True)
    width, offset = place[:, :, None, None]
    pixel = (y[..., None] * width + x[:, :, None]) * 3 + offset  # [V, B, POINTS, POINTS]
    channels = torch.arange(3, device=boxes.device)[:, None]
    colours = images.pixels[pixel.view(count * batch, 1, -1) + channels] / 255  # [V·B, 3, points]
    return affine + correction(colours, *numbers).view_as(affine)


@lru_cache(maxsize=32)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], threshold: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, std, and what 0, 1 and a threshold become, ``[3, 1]`` each. Kept: copying them would wait for a GPU."""
    m, s = torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
    return m, s, -m / s, (1 - m) / s, (threshold - m) / s
