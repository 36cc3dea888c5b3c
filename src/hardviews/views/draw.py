"""Draws views: a plan and image sizes become boxes, flips, colours and blurs. Seeded, on the CPU, no pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import permutations
from typing import Any, Self

import torch
from torch import Tensor

from hardviews.views.crops import joint_areas, parsed, suppressed_position
from hardviews.views.masks import draw_masks
from hardviews.views.plan import Slot, ViewPlan
from hardviews.views.tone import draw_tone
from hardviews.views.transfer import to_device

# Attempts before falling back to the central crop, as in torchvision's RandomResizedCrop.
ATTEMPTS = 10
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)  # a box

# Uniform numbers per view, drawn whether used or not, so that no number depends on another view or image: area and
# ratio of every attempt, position, flip, whether to jitter, factors, order, grey, whether to blur, sigma, solarize,
# ticket.
COUNTS = (ATTEMPTS, ATTEMPTS, 2, 1, 1, 4, 1, 1, 1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Views:
    """V views of each of B images, as numbers. Drawn on the CPU; call ``to`` before rendering on another device.

    Args:
        slot: int64 ``[V]``, always on the CPU: the slot of every view, the same for all images.
        box: float64 ``[V, B, 4]``: x0, y0, x1, y1 in 0..1 of the original; float64 so that rounding recovers the
            pixels.
        flip: bool ``[V, B]``, horizontal.
        jitter: float32 ``[V, B, 4]``: brightness, contrast and saturation factors, and hue shift in turns; 1, 1, 1, 0
            for no jitter.
        order: int64 ``[V, B, 4]``: the order in which the four are applied (0 brightness … 3 hue).
        grey: bool ``[V, B]``.
        blur: float32 ``[V, B]``: standard deviation in pixels of the full-size view; 0 for no blur.
        solarize: bool ``[V, B]``.
        ticket: float32 ``[V, B]``, uniform in 0..1. The ``random`` policy keeps the largest tickets, so its choice does
            not depend on the number of processes.
        mask: bool ``[V, B, rows, columns]``, patches hidden from the student; None if no slot masks.
        seed: int64 ``[V, B]``, seeds of what a custom transform draws; None if no slot has one.
        tone: float32 ``[V, B, C, 4]``, what changes channels one by one (``tone.py``); None if no slot has any.
    """

    slot: Tensor
    box: Tensor
    flip: Tensor
    jitter: Tensor
    order: Tensor
    grey: Tensor
    blur: Tensor
    solarize: Tensor
    ticket: Tensor
    mask: Tensor | None = None
    seed: Tensor | None = None
    tone: Tensor | None = None

    def __len__(self) -> int:
        """V, the number of views per image."""
        return self.slot.shape[0]

    @property
    def device(self) -> torch.device:
        return self.box.device

    def take(self, ids: Tensor, slot: Sequence[int] | None = None) -> Self:
        """Gathers the chosen views, on the device where these numbers are.

        Args:
            ids: int64 ``[K, B]``. Every row holds views of one slot, as in a ``Choice``.
            slot: the slots of the K rows, if known (``plan.slot_of_kept()``). Otherwise they are read from ``ids``,
                which makes a GPU wait, unless the plan has one slot only.
        """
        if slot is not None:
            kept = torch.tensor(slot, dtype=torch.int64)
        elif bool((self.slot == self.slot[0]).all()):
            kept = self.slot[:1].expand(ids.shape[0])
        else:
            kept = self.slot[ids[:, 0].cpu()]
        ids = ids.to(self.device)

        def gather(numbers: Tensor) -> Tensor:
            rest = numbers.shape[2:]
            return numbers.gather(0, ids.view(*ids.shape, *(1 for _ in rest)).expand(*ids.shape, *rest))

        return self._map(gather, kept)

    def __getitem__(self, part: slice | Tensor) -> Self:
        """All views of some images: a slice, without a copy (as ``ImageBatch[part]``), or rows."""
        return self._map(lambda numbers: numbers[:, part], self.slot)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Moves everything but ``slot``; with ``non_blocking``, without waiting for a GPU."""
        if not non_blocking:
            return self._map(lambda numbers: numbers.to(device), self.slot)
        given = {name: x for name, x in vars(self).items() if name != "slot" and x is not None}
        return replace(self, **dict(zip(given, to_device(list(given.values()), device), strict=True)))

    def _map(self, change: Callable[[Tensor], Tensor], slot: Tensor) -> Self:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        numbers = {name: change(x) for name, x in given.items() if name != "slot" and x is not None}
        return type(self)(slot=slot, **numbers)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch uses several threads for more than 32,768 numbers. Waking 16 of them took 4 to 18 ms per batch beside an
    H200; one thread draws in 1 ms."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def draw(
    plan: ViewPlan, size: Tensor, generator: torch.Generator, *, start: int = 0, total: int | None = None
) -> Views:
    """Draws the plan's V candidates for every image.

    Draws for the global batch and takes this process's part, so an image's views depend neither on the number of
    processes nor on the sizes of other images.

    Args:
        plan: what to draw.
        size: int64 ``[B, 2]`` on the CPU, height and width of this process's images (``ImageBatch.size``).
        generator: on the CPU, a new one for every step: ``stream(seed, "views", step)``.
        start: position of the first of these images in the global batch.
        total: images in the global batch; None if these are all.
    """
    batch = size.shape[0]
    total = start + batch if total is None else total
    if not 0 <= start <= start + batch <= total:
        raise ValueError(f"images {start} to {start + batch} are not within a global batch of {total}")
    uniform = torch.rand(plan.draw, sum(COUNTS), total, generator=generator)[..., start : start + batch]
    # [V, count, B] each
    area, ratio, position, flip, jittered, factor, order, grey, blurred, sigma, solarize, ticket = (
        uniform.split_with_sizes(COUNTS, 1)
    )
    low = _per_view(plan, lambda slot: [*(max(0.0, 1 - x) for x in _factors(slot)), -slot.photometric.hue])
    high = _per_view(plan, lambda slot: [*(1 + x for x in _factors(slot)), slot.photometric.hue])
    jitter = torch.where(
        jittered < _per_view(plan, lambda slot: slot.photometric.jitter_p),
        low + (high - low) * factor,
        torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None],
    )
    narrow = _per_view(plan, lambda slot: slot.photometric.blur_sigma[0])
    wide = _per_view(plan, lambda slot: slot.photometric.blur_sigma[1])
    blur = torch.where(
        blurred < _per_view(plan, lambda slot: slot.photometric.blur_p), narrow + (wide - narrow) * sigma, 0.0
    )
    orders = torch.tensor(list(permutations(range(4))))  # [24, 4]
    whole = _per_view(plan, lambda slot: slot.transform is not None and slot.transform_input == "image", torch.bool)
    mask = draw_masks(plan, generator, start, batch, total)
    seed = torch.randint(2**62, (plan.draw, total), generator=generator) if plan.transforms else None
    return Views(
        slot=torch.tensor(plan.slot_of()),
        box=torch.where(whole, WHOLE, _boxes(plan, size, area, ratio, position)),
        flip=(~whole & (flip < _per_view(plan, lambda slot: slot.flip_p)))[:, 0],
        jitter=jitter.transpose(1, 2).contiguous(),
        order=orders[(order[:, 0] * len(orders)).long()],
        grey=(grey < _per_view(plan, lambda slot: slot.photometric.grey_p))[:, 0],
        blur=blur[:, 0],
        solarize=(solarize < _per_view(plan, lambda slot: slot.photometric.solarize_p))[:, 0],
        ticket=ticket[:, 0].contiguous(),
        mask=mask,
        seed=None if seed is None else seed[:, start : start + batch],
        tone=draw_tone(plan, generator, start, batch, total),
    )


def _boxes(plan: ViewPlan, size: Tensor, area: Tensor, ratio: Tensor, position: Tensor) -> Tensor:
    """Crops as torchvision's RandomResizedCrop draws them, ``[V, B, 4]``, from uniform numbers ``[V, attempts, B]``."""
    # Whole pixels, held in float64, which is exact and divides without a cast.
    height, width = size.double().unbind(1)  # [B] each
    smallest = _per_view(plan, lambda slot: slot.scale[0], torch.float64)
    largest = _per_view(plan, lambda slot: slot.scale[1], torch.float64)
    narrow = _per_view(plan, lambda slot: slot.ratio[0], torch.float64)
    wide = _per_view(plan, lambda slot: slot.ratio[1], torch.float64)

    beta, alpha = parsed(plan.crops)
    part = smallest + (largest - smallest) * area  # [V, attempts, B]
    if beta is not None:
        part = joint_areas(plan, part, area, beta)
    pixels = part * (height * width)
    aspect = (narrow.log() + (wide.log() - narrow.log()) * ratio).exp()
    w, h = (pixels * aspect).sqrt_().round_(), (pixels / aspect).sqrt_().round_()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.byte().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]  # [V, B]
    if alpha is None:
        x = (position[:, 0] * (width - w + 1)).floor_()
        y = (position[:, 1] * (height - h + 1)).floor_()
    else:
        x = suppressed_position(width, w, position[:, 0], alpha)
        y = suppressed_position(height, h, position[:, 1], alpha)

    # No attempt fitted, as happens in very long images: take the largest central crop within the range of ratios.
    found, narrow, wide = fits.any(1), narrow[:, 0], wide[:, 0]
    central_w = torch.where(width / height > wide, (height * wide).round().clamp_min(1), width)
    central_h = torch.where(width / height < narrow, (width / narrow).round().clamp_min(1), height)
    w, h = torch.where(found, w, central_w), torch.where(found, h, central_h)
    x = torch.where(found, x, ((width - w) / 2).floor())
    y = torch.where(found, y, ((height - h) / 2).floor())
    return torch.stack([x / width, y / height, (x + w) / width, (y + h) / height], -1)


def _factors(slot: Slot) -> tuple[float, float, float]:
    return slot.photometric.brightness, slot.photometric.contrast, slot.photometric.saturation


def _per_view(
    plan: ViewPlan, number: Callable[[Slot], float | list[float]], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers of every view's slot as ``[V, numbers, 1]``, to broadcast against ``[V, numbers, B]``."""
    values: list[Any] = [number(plan.slots[slot]) for slot in plan.slot_of()]
    return torch.tensor(values, dtype=dtype).view(plan.draw, -1, 1)
