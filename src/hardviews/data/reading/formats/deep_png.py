"""PNGs of 16 bits in several channels, of which Pillow keeps 8 bits: it decodes them twice, for either half."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image

from hardviews.data.reading.formats.scene import Content, Scene, Window, check_bytes, check_pixels
from hardviews.data.reading.forms import Array

_START = b"\x89PNG\r\n\x1a\n"
_RGB, _GREY_ALPHA, _RGBA = 2, 4, 6  # kinds of colours in the header


def is_deep(start: bytes) -> bool:
    """Whether the first 26 bytes are of a PNG of 16 bits in two channels or more."""
    return start.startswith(_START) and start[24] == 16 and start[25] in (_RGB, _GREY_ALPHA, _RGBA)


@contextmanager
def deep_png(content: Content) -> Iterator[Scene]:
    """RGB of 16 bits, and transparency. Grey with transparency is refused."""
    upper = _half(content, "B")
    height, width = upper.shape[:2]
    array = upper.astype(np.uint16) << 8 | _half(content, "L")

    def read(_: int, at: Window) -> Array:
        return array[at.top : at.top + at.height, at.left : at.left + at.width]

    yield Scene(1, height, width, read, opacity="plain" if array.shape[2] == 4 else "")


def _half(content: Content, byte: str) -> Array:
    """The upper byte of every number, or the lower one, uint8 ``[h, w, C]``.

    Pillow takes the upper byte of numbers whose order it is told, B or L; told the wrong order, it takes the lower one.
    """
    with Image.open(BytesIO(content) if isinstance(content, bytes) else content, formats=("PNG",)) as image:
        check_pixels(image.height, image.width)
        check_bytes(image.height, image.width, 8)
        (tile,) = image.tile
        if tile.args != f"{image.mode};16B":
            raise ValueError("grey of 16 bits with transparency is not read: save it without")
        image.tile = [tile._replace(args=f"{image.mode};16{byte}")]
        return np.array(image)
