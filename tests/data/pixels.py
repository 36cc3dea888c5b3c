"""Numbers for pictures that tests write."""

from struct import pack
from typing import Any
from zlib import compress, crc32

import numpy as np
import torch
from numpy.typing import NDArray

from hardviews.data.reading.decode import Bounds

STORED = Bounds(form=None)
Array = NDArray[Any]


def numbers(dtype: str, *shape: int, seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    if dtype == "float32":
        return draw.normal(0, 500, shape).astype(np.float32)
    return draw.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def ramps() -> Array:
    """A smooth picture ``[48, 64, 3]``, which lossy formats keep."""
    rows, columns = np.mgrid[:48, :64]
    return np.stack([5 * rows, 255 - 4 * columns, 2 * (rows + columns)], axis=2).astype(np.uint8)


def shift(pixels: torch.Tensor) -> Array:
    """As int64, so that differences don't wrap."""
    return pixels.numpy().astype(np.int64)


def deep_png(array: Array) -> bytes:
    """A PNG of 16 bits, ``[h, w, 2 to 4]``, by hand: Pillow can't write one."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", compress(rows)), (b"IEND", b""))
    body = [pack(">I", len(data)) + kind + data + pack(">I", crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
