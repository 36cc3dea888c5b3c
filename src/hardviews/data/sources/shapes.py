"""The built-in set ``shapes``: images drawn from their index by numpy alone.

It is for demonstrations and tests. A score on it is never evidence for hard views: by design, the class is the only
thing that all crops of an image share.

Every image shows three or four copies of one shape, the class. Each copy has its own colour, texture, size, rotation
and place. It is lighter or darker than the background, whose colour varies over the image. All shapes have the same
area. So raw pixels say little about the class (kNN 18 %, chance 10 %), while nearly every random crop shows it.

This design was committed before any training on it. Two of the three designs before it were dropped because SimCLR
learned their backgrounds instead of their shapes, so this one is not independent of training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage
from hardviews.data.reading.forms import of_array
from hardviews.errors import InputError
from hardviews.views.pixels import RGB

Floats = npt.NDArray[np.floating[Any]]  # float32 throughout

SPLITS = {"train": 0, "test": 1}
COUNTS = {"train": 5000, "test": 1000}  # images of a split by default
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
GRID = 6  # points per side of the grid of background colours
MARGIN = 0.1  # least distance of a copy's centre from the border, as a fraction of the side
TRIES = 3  # places tried for a copy; it takes the one farthest from the others


# Every shape is a signed distance (negative inside) from rotated coordinates u, v. All have an area of 1.7.


def _disk(u: Floats, v: Floats) -> Floats:
    return np.sqrt(u * u + v * v) - 0.7356


def _ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.sqrt(u * u + v * v) - 0.75) - 0.1804


def _target(u: Floats, v: Floats) -> Floats:
    radius = np.sqrt(u * u + v * v)
    return np.minimum(np.abs(radius - 0.8) - 0.145, radius - 0.278)


def _frame(u: Floats, v: Floats) -> Floats:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.72) - 0.1476


def _stripes(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.minimum(np.abs(np.abs(v) - 0.66), np.abs(v)) - 0.1667, np.abs(u) - 0.85)


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 1.0, np.minimum(a, b) - 0.2417)


def _star(u: Floats, v: Floats) -> Floats:
    tip, notch, half = 1.19, 0.486, np.pi / 5
    angle = np.abs(np.arctan2(v, u) % (2 * half) - half)  # folded: 0 at a notch, half at a tip
    radius = np.sqrt(u * u + v * v)
    along = np.array([tip * np.cos(half) - notch, tip * np.sin(half)], dtype=np.float32)
    along /= np.hypot(*along)
    distance: Floats = (radius * np.cos(angle) - notch) * along[1] - radius * np.sin(angle) * along[0]
    return distance


def _dots(u: Floats, v: Floats) -> Floats:
    return np.sqrt((np.abs(u) - 0.55) ** 2 + (np.abs(v) - 0.55) ** 2) - 0.3678


def _bar(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u) - 1.15, np.abs(v) - 0.3696)


def _checks(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    checks: Floats = np.maximum(np.maximum(a, b) - 0.922, np.minimum(a, b) * np.sign(u * v))
    return checks


# They differ in edges and corners, which crops at any scale keep.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disk": _disk,
    "ring": _ring,
    "target": _target,
    "frame": _frame,
    "stripes": _stripes,
    "cross": _cross,
    "star": _star,
    "dots": _dots,
    "bar": _bar,
    "checks": _checks,
}


@dataclass(frozen=True)
class ShapeScene:
    """A drawn image and the n objects on it, in the order of painting.

    Args:
        image: uint8 ``[size, size, 3]``.
        masks: bool ``[n, size, size]``, the visible part of every object.
        label: which of ``SHAPES`` all objects are.
    """

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    label: int


def draw_scene(index: int, *, split: str = "train", seed: int = 0, size: int = 32) -> ShapeScene:
    """Draws image ``index`` of a split. The same arguments give the same image.

    ``size`` only sets the resolution; apart from faint pixel noise, the scene does not depend on it.
    """
    random = np.random.default_rng([seed, SPLITS[split], index])
    label = index % len(SHAPES)
    copies = 3 + int(random.random() < 0.5)
    ground, place, scale, turn, tone, tint, waves, phase, amount = _numbers(random, copies)

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, None, :], axis[None, :, None]  # unit coordinates: [1, 1, size], [1, size, 1]

    texture = np.sin(waves[:, 0, 0, None, None] * x + waves[:, 0, 1, None, None] * y + phase[:, 0, None, None])
    texture *= np.sin(waves[:, 1, 0, None, None] * x + waves[:, 1, 1, None, None] * y + phase[:, 1, None, None])
    texture *= amount[:, None, None]  # [n, size, size]

    # interpolates a coarse grid of colours, so the background varies over the image
    blend = np.maximum(1 - np.abs(axis[:, None] * (GRID - 1) - np.arange(GRID, dtype=np.float32)), 0)  # [size, GRID]
    image = np.einsum("ya,xb,abc->yxc", blend, blend, ground, optimize=True)
    image += (random.random((size, size, 1), dtype=np.float32) - 0.5) * 0.06

    dx, dy = x - place[:, 0, None, None], y - place[:, 1, None, None]  # [n, size, size]
    shape = list(SHAPES.values())[label]
    cos, sin = (np.cos(turn) / scale)[:, None, None], (np.sin(turn) / scale)[:, None, None]
    distance = shape(dx * cos + dy * sin, dy * cos - dx * sin)
    cover = np.clip(0.5 - distance * (scale * size)[:, None, None], 0, 1)  # antialiased: a ramp one pixel wide

    for n in range(copies):
        colour = tint[n] + (tone[n] + texture[n])[..., None]
        image += cover[n][..., None] * (colour - image)

    solid = cover > 0.5
    for n in range(copies - 1):
        solid[n] &= ~solid[n + 1 :].any(0)
    return ShapeScene((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), solid, label)


def _numbers(random: np.random.Generator, copies: int) -> tuple[Floats, ...]:
    """All random numbers of a scene but its pixel noise. Each has n objects first, except the background's grid."""
    ground = 0.5 + random.uniform(-0.08, 0.08, (GRID, GRID, 1)).astype(np.float32) + _tints(random, (GRID, GRID))
    place = _places(random, copies)
    scale = random.uniform(0.15, 0.28, copies).astype(np.float32)  # radius as a fraction of the side
    turn = random.uniform(0, 2 * np.pi, copies).astype(np.float32)
    # lighter or darker than the background, so the shape shows without colour too; every image has both
    sign = np.where(random.permutation(copies) % 2 == 0, 1, -1)
    tone = (0.5 + sign * random.uniform(0.22, 0.5, copies)).astype(np.float32)
    tint = _tints(random, (copies,))
    waves = random.uniform(-50, 50, (copies, 2, 2)).astype(np.float32)  # up to eight waves across the image
    waves[:, 1] *= random.random((copies, 1)) < 0.5  # half are stripes, half are checks
    phase = random.uniform(0, 2 * np.pi, (copies, 2)).astype(np.float32)
    amount = random.uniform(0, 0.08, copies).astype(np.float32)
    return ground, place, scale, turn, tone, tint, waves, phase, amount


def _places(random: np.random.Generator, copies: int) -> Floats:
    """Centres x, y of the copies, random and apart, ``[copies, 2]``."""
    tried = random.uniform(MARGIN, 1 - MARGIN, (copies, TRIES, 2)).astype(np.float32)
    places = tried[0, :1]
    for candidates in tried[1:]:
        apart = np.linalg.norm(candidates[:, None] - places, axis=-1).min(1)
        places = np.concatenate([places, candidates[[apart.argmax()]]])
    return places


def _tints(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Random colours of zero luma, ``[*shape, 3]``."""
    tint = random.uniform(-0.3, 0.3, (*shape, 3)).astype(np.float32)
    return tint - (tint @ LUMA)[..., None]


class Shapes:
    """The built-in set as a source: ``count`` images whose classes take turns, so any count is balanced.

    Args:
        split: ``train`` or ``test``; they share no image.
        count: number of images; by default 5,000 (train) or 1,000 (test).
        size: side of the images in pixels.
        seed: another seed gives another set of the same kind.

    Raises:
        InputError: another split, or a count or size below one.
    """

    def __init__(self, split: str = "train", count: int | None = None, size: int = 32, seed: int = 0) -> None:
        if split not in SPLITS:
            raise InputError(f"shapes has no split {split!r}; known: {', '.join(SPLITS)}")
        self.count = COUNTS[split] if count is None else count
        if self.count < 1 or size < 1:
            raise InputError(f"shapes needs at least one image of at least one pixel, not {self.count} of {size}")
        self.name = "shapes"
        self.split, self.size, self.seed = split, size, seed
        self.labels: Tensor | None = torch.arange(self.count) % len(SHAPES)
        self.class_names: list[str] | None = list(SHAPES)
        self.native_size: int | None = size if size <= 96 else None

    def __len__(self) -> int:
        return self.count

    def identity(self) -> str:
        return f"shapes {self.split} {self.count} {self.size} {self.seed}"

    def path(self, index: int) -> str:
        return f"shapes/{self.split}/{index}"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, RGB uint8 ``[size, size, 3]``, drawn smaller if it exceeds the bounds."""
        size = min(bounds.fit(self.size, self.size))
        image = draw_scene(index, split=self.split, seed=self.seed, size=size).image
        if bounds.form == RGB:
            return torch.from_numpy(image)
        try:
            return of_array(image, bounds.form)
        except ValueError as error:
            raise UnreadableImage(self.path(index), str(error)) from None
