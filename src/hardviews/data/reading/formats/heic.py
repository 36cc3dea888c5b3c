"""HEIC and HEIF, by pillow-heif."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hardviews.data.reading.formats.scene import Content, Scene, check_bytes, check_pixels

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heic(start: bytes) -> bool:
    """By the brand of the file; AVIFs have some brands in common, and are Pillow's."""
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS and b"avif" not in start[8:64]


@contextmanager
def heic(content: Content) -> Iterator[Scene]:
    """The primary image, upright: 8 bits as they are, more of them as 16 bits."""
    library: Any = importlib.import_module("pillow_heif")
    if not isinstance(content, bytes):
        check_bytes(Path(content).stat().st_size)
    file = library.open_heif(BytesIO(content) if isinstance(content, bytes) else content, convert_hdr_to_8bit=False)
    width, height = file.size
    check_pixels(height, width)
    image = file[file.primary_index]

    def read(_: int, at: Any) -> Any:
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        return array[at.top : at.top + at.height, at.left : at.left + at.width]

    opacity: Literal["", "plain", "multiplied"] = (
        "" if not image.has_alpha else "multiplied" if image.premultiplied_alpha else "plain"
    )
    yield Scene(1, height, width, read, opacity=opacity)
