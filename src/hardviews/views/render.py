"""Renders views to pixels on the images' device: resampling (``geometry.py``), one colour matrix per view, one clamp,
normalisation."""

import warnings
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.colour import colour_matrix, fitted, steps_of
from hardviews.views.draw import Views
from hardviews.views.exact import exact_view
from hardviews.views.geometry import by_matrices, by_taps
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan, size_at
from hardviews.views.tone import channel_maps, finish_channels
from hardviews.views.transfer import to_device
from hardviews.views.transforms import apply_transforms

Group = tuple[Slot, int]  # a slot, and the number of consecutive views that belong to it

# On a CPU, larger pictures (in pixels) are resampled by taps.
TAPS_PIXELS = 2**12

# On a CPU, colours are applied to this many numbers at a time, 1 MB, which stay in the cache.
NEAR_FLOATS = 2**18

# Colours are fitted to torchvision's on a grid of this many points per side of every crop; 16 fit no better.
POINTS = 8


@torch.no_grad()
def render(images: ImageBatch, views: Views, plan: ViewPlan, resolution: float = 1.0) -> list[Tensor]:
    """Renders views.

    With ``plan.colour == "matrix"``, crop, resize, flip and blur match torchvision to rounding, colours match about as
    ``colour.py`` states for photographs, and nothing waits for a GPU. A transform that no slot of the plan allows
    (jitter of 0, ``blur_p`` of 0) is not read from ``views``. With ``"exact"``, torchvision's own functions are called
    step by step and image by image. Slots with a custom transform are finished by it (``transforms.py``), image by
    image, which a GPU waits for.

    Args:
        images: B images of any sizes; the result is on their device.
        views: K views of each image, drawn from ``plan``; moved to the images' device if necessary.
        plan: sizes, interpolation, blur kernels, normalisation.
        resolution: renders the same views at this fraction of their size (see ``size_at``); blur widths scale along.

    Returns:
        K tensors, float32 ``[B, C, h, w]``, contiguous, normalised with the plan's mean and std.

    Raises:
        InputError: the images have other channels than the plan.
    """
    channels = plan.channels
    if images.form.channels != channels:
        raise InputError(f"images have {images.form.channels} channels, and mean and std of the plan {channels}")
    own, plan = plan, replace(plan, mean=(0.0,) * channels, std=(1.0,) * channels) if plan.transforms else plan
    groups = [(plan.slots[slot], len(list(same))) for slot, same in groupby(views.slot.tolist())]
    sides = [size_at(plan, slot, resolution) for slot, _ in groups]
    out = [
        torch.empty(count, len(images), channels, side, side, device=images.device)
        for (_, count), side in zip(groups, sides, strict=True)
    ]
    if len(images) == 0:
        return [view for group in out for view in group]
    # An active autocast of the caller would round the resampling to 16 bits.
    with torch.autocast(images.device.type, enabled=False):
        if plan.colour == "exact":
            _render_exact(images, views.to("cpu"), plan, out)
        else:
            _render_matrix(images, views.to(images.device, non_blocking=True), plan, groups, out)
        rendered = [view for group in out for view in group]
        if own.transforms:
            apply_transforms(images, views, own, rendered)
    return rendered


def _render_exact(images: ImageBatch, views: Views, plan: ViewPlan, out: list[Tensor]) -> None:
    mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (plan.mean, plan.std))
    rendered = [view for group in out for view in group]
    for b in range(len(images)):
        image = images.form.levels(images.image(b), 0)
        for v, pixels in enumerate(rendered):
            pixels[b] = (exact_view(image, views, v, b, plan, pixels.shape[-1]) - mean) / std


def _render_matrix(images: ImageBatch, views: Views, plan: ViewPlan, groups: list[Group], out: list[Tensor]) -> None:
    extent = images.size.double().flip(1).repeat(1, 2)  # [B, 4]
    first = torch.tensor(images.offset[:-1]).double()[:, None] // plan.channels  # pixel of the buffer
    placed = to_device([torch.cat([extent, first], 1)], images.device)[0]
    boxes = (views.box * placed[:, :4]).round_()  # x0, y0, x1, y1 in pixels, [V, B, 4]
    known = images.form.plain and plan.rgb and views.tone is None  # what kernels know
    fused = kernels_on(images.device) if known else None
    resample = by_matrices
    if fused:
        resample = partial(fused.resampled, placed=placed)
    elif images.device.type == "cpu" and int(images.size.prod(1).amax()) > TAPS_PIXELS:
        resample = by_taps
    counts = [count for _, count in groups]
    of_groups = zip(*(torch.split(x, counts) for x in (boxes, views.flip, views.blur)), strict=True)
    means = [
        resample(images, box, flip, blur * (pixels.shape[-1] / slot.size), slot, pixels)
        for (slot, _), pixels, (box, flip, blur) in zip(groups, out, of_groups, strict=True)
    ]
    tones = [None] * len(groups) if views.tone is None else torch.split(views.tone, counts)
    if not plan.rgb:
        jitter, order, mean = views.jitter.flatten(0, 1), views.order.flatten(0, 1), torch.cat(means)
        maps = channel_maps(jitter, order, mean.flatten(0, 1) / 255)
        scales, shifts = (torch.split(x.view_as(mean), counts) for x in maps)
        for pixels, scale, shift, tone in zip(out, scales, shifts, tones, strict=True):
            finish_channels(scale, shift, tone, plan.mean, plan.std, pixels)
        return
    affine = _colours(images, boxes, placed, views, torch.cat(means), [slot for slot, _ in groups], fused)
    of_groups = zip(*(torch.split(x, counts) for x in (affine, views.solarize)), strict=True)
    finish = fused.finish if fused else _finish
    # A tone acts on colours that are not normalised yet.
    of_mean, of_std = (list(plan.mean), list(plan.std)) if views.tone is None else ([0.0] * 3, [1.0] * 3)
    for (slot, _), pixels, tone, (ours, inverted) in zip(groups, out, tones, of_groups, strict=True):
        look = slot.photometric
        threshold = look.solarize_threshold if look.solarize_p > 0 else float("inf")
        finish(ours, inverted, threshold, of_mean, of_std, pixels)
        if tone is not None:
            same = torch.full_like(tone[..., 0], 255)
            finish_channels(same, torch.zeros_like(same), tone, plan.mean, plan.std, pixels)


def _finish(
    affine: Tensor, solarize: Tensor, threshold: float, mean: list[float], std: list[float], pixels: Tensor
) -> None:
    """Applies colours, clamp, solarize and normalisation, in place.

    Args:
        affine: ``[V, B, 3, 4]``, for colours in 0..1.
        solarize: bool ``[V, B]``.
        threshold: solarize inverts values at or above this; infinite if no view is solarized.
        mean, std: of the normalisation.
        pixels: ``[V, B, 3, side, side]``, 0..255.
    """
    m, s, black, white, limit = _normalisation(tuple(mean), tuple(std), threshold, pixels.device)
    # One product applies colours and normalisation, so the clamp limits are the normalised 0 and 1.
    affines = torch.cat([affine[..., :3] / (255 * s), (affine[..., 3:] - m) / s], -1).flatten(0, 1)
    flat = pixels.view(-1, 3, pixels.shape[-1] ** 2)
    step = max(NEAR_FLOATS // flat[0].numel(), 1) if pixels.device.type == "cpu" else len(flat)
    chunks = (torch.split(x, step) for x in (affines, flat, solarize.flatten()))
    for some, part, inverted in zip(*chunks, strict=True):
        coloured = torch.baddbmm(some[..., 3:], some[..., :3], part)
        # On a CPU this is 8 times as fast as clamp with tensors.
        torch.minimum(torch.maximum(coloured, black, out=coloured), white, out=part)
        if threshold < float("inf"):
            where = inverted[:, None, None] & (part >= limit)
            part.copy_(torch.where(where, black + white - part, part))


@lru_cache(maxsize=8)
def kernels_on(device: torch.device) -> Any:
    """The module of kernels for a device, ``fused``; None on a CPU and where Triton can't compile."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    from hardviews.views import fused

    try:
        fused.compile_for(device, POINTS)
    except Exception as error:  # from Triton, the compiler it calls, or the driver
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"Triton can't compile for {device}, so rendering views is slower ({why})", stacklevel=2)
        return None
    return fused


def _jitters(slot: Slot) -> bool:
    look = slot.photometric
    return look.jitter_p > 0 and max(look.brightness, look.contrast, look.saturation, look.hue) > 0


def _colours(
    images: ImageBatch, boxes: Tensor, placed: Tensor, views: Views, means: Tensor, slots: list[Slot], fused: Any
) -> Tensor:
    """The affine colour maps ``[V, B, 3, 4]`` of all views at once, since they take many small operations.

    Args:
        boxes: ``[V, B, 4]``, in pixels.
        placed: ``[B, 5]``: width, height, width, height, and the position of an image's first pixel in the buffer.
        means: ``[V, B, 3]``, mean colours of the views, 0..255.
        fused: the module of kernels if they run on this device.
    """
    jitters = any(map(_jitters, slots))
    if not jitters and not any(slot.photometric.grey_p for slot in slots):
        return torch.eye(3, 4, device=images.device).repeat(*means.shape[:2], 1, 1)
    steps = steps_of(views.jitter.flatten(0, 1), views.order.flatten(0, 1))
    grey, means = views.grey.flatten(0, 1), means.flatten(0, 1) / 255
    if not jitters:
        return colour_matrix(steps, grey, means)[0].view(*boxes.shape[:2], 3, 4)
    # Sample the colours of each view on a grid of its crop.
    if fused:
        affine: Tensor = fused.fitted(images, placed, boxes, steps, grey, means, POINTS)
        return affine
    centres = _grid(boxes.device)
    x, y = torch.addcmul(boxes[..., :2, None], boxes[..., 2:, None] - boxes[..., :2, None], centres).floor_().unbind(2)
    row = torch.addcmul(placed[:, 4:], y, placed[:, :1])  # [V, B, POINTS]
    pixel = (row[..., None] + x[:, :, None]).long()  # [V, B, POINTS, POINTS]
    colours = images.form.levels(images.gathered(pixel.view(-1))).view(len(means), -1, 3).mT / 255
    return fitted(colours, steps, grey, means).view(*boxes.shape[:2], 3, 4)


@lru_cache(maxsize=8)
def _grid(device: torch.device) -> Tensor:
    """Centres of POINTS equal parts of a side, as fractions of it, in float64."""
    with torch.inference_mode(False):
        return (torch.arange(POINTS, dtype=torch.float64, device=device) + 0.5) / POINTS


@lru_cache(maxsize=32)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], threshold: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, std, and the normalised 0, 1 and threshold, ``[3, 1]`` each. Cached: copying them would make a GPU wait."""
    m, s = torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
    return m, s, -m / s, (1 - m) / s, (threshold - m) / s
