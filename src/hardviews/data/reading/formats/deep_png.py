"""PNGs of 16 bits in several channels, of which Pillow keeps 8 bits: torchvision reads them whole."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hardviews.data.reading.formats.scene import Content, Scene, check_bytes, check_pixels
from hardviews.data.reading.forms import on_white

MAGIC = b"\x89PNG\r\n\x1a\n"


def is_deep(start: bytes) -> bool:
    """Whether the first 26 bytes are of a PNG of 16 bits in two channels or more."""
    return start.startswith(MAGIC) and start[24:25] == b"\x10" and start[25:26] in (b"\2", b"\4", b"\6")


@contextmanager
def deep_png(content: Content) -> Iterator[Scene]:
    """Grey or RGB of 16 bits; transparency is laid on white."""
    if not isinstance(content, bytes):
        check_bytes(Path(content).stat().st_size)
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    check_pixels(height, width)
    io: Any = importlib.import_module("torchvision.io")
    found = io.decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), io.ImageReadMode.UNCHANGED)
    array = found.permute(1, 2, 0).numpy()
    array = on_white(array) if array.shape[2] in (2, 4) else array
    yield Scene(1, height, width, lambda _, at: array[at.top : at.top + at.height, at.left : at.left + at.width])
