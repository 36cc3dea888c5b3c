"""Which axis of an array is which: rows, columns, channels, and axes whose places are frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from hardviews.data.reading.formats.scene import Window, check_bytes
from hardviews.data.reading.forms import Array
from hardviews.views.pixels import MOST_CHANNELS


@dataclass(frozen=True)
class Layout:
    """The axes of an array.

    Args:
        axes: a letter each: Y, X, C for channels, and any others, whose places are the frames, the last the fastest.
        shape: as many sizes.
    """

    axes: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(set("YX") & set(self.axes)) != ["X", "Y"] or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes {self.axes} are no picture")
        if not all(size > 0 for size in self.shape):
            raise ValueError(f"an array of shape {list(self.shape)} is empty")
        if self.size("C") > MOST_CHANNELS:
            raise ValueError(f"{self.size('C')} channels are more than {MOST_CHANNELS}")

    def size(self, axis: str) -> int:
        """Of an axis; 1 if there is none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def frames(self) -> int:
        return prod(size for axis, size in zip(self.axes, self.shape, strict=True) if axis not in "YXC")

    def cut(self, array: Any, frame: int, window: Window) -> Array:
        """A window of a frame, ``[h, w, C]``, of anything that is indexed like an array of this shape."""
        check_bytes(window.height, window.width, self.size("C"), array.dtype.itemsize)
        others = [axis for axis in self.axes if axis not in "YXC"]
        place = dict(zip(others, np.unravel_index(frame, [self.size(axis) for axis in others]), strict=True))
        index: list[Any] = [int(place[axis]) if axis in place else slice(None) for axis in self.axes]
        index[self.axes.index("Y")] = slice(window.top, window.top + window.height)
        index[self.axes.index("X")] = slice(window.left, window.left + window.width)
        found = np.asarray(array[tuple(index)])
        left = [axis for axis in self.axes if axis in "YXC"]
        found = found if "C" in left else found[..., None]
        return found.transpose([[*left, "C"].index(axis) for axis in "YXC"])


def guessed(shape: Sequence[int]) -> Layout:
    """The layout of an array that does not name its axes, by their sizes.

    ``[h, w]``; ``[h, w, C]`` or ``[C, h, w]``: channels are the smaller of the first and the last axis, and at most 32;
    ``[frames, h, w]`` if both are longer; ``[frames, h, w, C]`` or ``[frames, C, h, w]``.
    """
    shape = tuple(int(size) for size in shape)
    if len(shape) == 2:
        return Layout("YX", shape)
    if len(shape) not in (3, 4):
        raise ValueError(f"an array of shape {list(shape)} is no picture: [h, w], with channels, or with frames")
    first, last = shape[-3], shape[-1]
    axes = "YXC" if last <= min(first, MOST_CHANNELS) else "CYX" if first <= MOST_CHANNELS else "ZYX"
    if len(shape) == 4 and axes == "ZYX":
        raise ValueError(f"an array of shape {list(shape)}: neither axis of channels has at most {MOST_CHANNELS}")
    return Layout(axes if len(shape) == 3 else f"T{axes}", shape)
