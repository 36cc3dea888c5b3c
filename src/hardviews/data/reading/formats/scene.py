"""What every format gives: frames of one size, of which any window can be read."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from textwrap import shorten
from typing import Literal, NamedTuple

from hardviews.data.reading.forms import Array

MAX_PIXELS = 89_478_485  # images that claim more are refused before a pixel is decoded (Pillow's limit)
MOST_DECODED = 1 << 30  # bytes of a window as stored; windows that claim more are refused

Content = bytes | str | Path  # what is encoded, or the file it is in


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Part(NamedTuple):
    """A frame of a file, or a window of it; without a window the whole frame."""

    frame: int = 0
    window: Window | None = None


@dataclass(frozen=True)
class Scene:
    """An open file.

    Args:
        frames: their number.
        height, width: of every frame.
        read: frame and window → what is stored there, ``[h, w, C]``.
        shown: the values that the file itself shows as black and white, if it names any.
        opacity: that the last channel is how opaque a pixel is, and whether the others are multiplied by it.
    """

    frames: int
    height: int
    width: int
    read: Callable[[int, Window], Array]
    shown: tuple[float, float] | None = None
    opacity: Literal["", "plain", "multiplied"] = ""


Opener = Callable[[Content], AbstractContextManager[Scene]]


def check_pixels(height: int, width: int) -> None:
    """Raises ValueError for a window of more than ``MAX_PIXELS``."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS}; --tile reads parts of them")


def check_bytes(*factors: int) -> None:
    """Raises ValueError for an array of more than ``MOST_DECODED`` bytes, which are the product of these."""
    if prod(factors) > MOST_DECODED:
        raise ValueError(f"{prod(factors) >> 20} MiB decoded are more than {MOST_DECODED >> 20}; --tile reads parts")


def in_short(said: Exception | str) -> str:
    """What a library says of a file in one short line, without the names of its functions and objects."""
    text = re.sub(r"^\w+ returned | ?<[\w.]+ object at 0x\w+>", "", " ".join(str(said).split()))
    text = shorten(text, 120, placeholder=" ...") or type(said).__name__
    stumbled = isinstance(said, (LookupError, ArithmeticError, TypeError, AttributeError))
    return f"its header makes no sense: {text}" if stumbled else text
