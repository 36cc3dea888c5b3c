"""Encoded pictures of every mode and size → RGB uint8 of bounded size."""

import os
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hardviews.data.reading import cut_short

DECODE_SIZE = 512  # pixels of the shorter side that a larger picture is shrunk to, where nothing else is asked
# Pillow's names of the formats that are opened, whatever a file is called: bitmaps that Pillow decodes by itself.
# Others it hands to programs (EPS to Ghostscript, without a limit of time), or opens what they hold as any format.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 89_478_485  # pictures that claim more are refused before a pixel is decoded (Pillow's own limit)

MOST_BYTES = 1 << 28  # of an encoded picture that is read as a whole

Faults = dict[int, str]  # number of an unreadable image → why

_UPRIGHT = {  # EXIF orientation → what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # the EXIF tag


class UnreadableImage(Exception):  # noqa: N818 (it is named in tables, as what it is)
    """A picture that can't be decoded: where it is, and why, in a few words that are the same on every try."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both as arguments, so that it survives the way back from a worker
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Bounds:
    """How large a decoded picture may be; larger ones are shrunk, aspect kept. 0: no bound.

    Args:
        side: pixels of the shorter side.
        pixels: height times width.
    """

    side: int = 0
    pixels: int = 0

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size that a picture of this size is shrunk to; the same where it is within the bounds."""
        scale = 1.0
        if self.side:
            scale = min(scale, self.side / min(width, height))
        if self.pixels:
            scale = min(scale, (self.pixels / (width * height)) ** 0.5)
        if scale == 1.0:
            return width, height
        # down, not to the nearest, so that the bound on pixels holds; the shorter side is exact
        shrunk = max(1, int(width * scale + 1e-6)), max(1, int(height * scale + 1e-6))
        if self.pixels and shrunk[0] * shrunk[1] > self.pixels:  # a side below one pixel was rounded up
            shrunk = min(shrunk[0], self.pixels), min(shrunk[1], self.pixels)
        return shrunk


UNBOUNDED = Bounds()


def printable(path: str) -> str:
    """A path as it can be printed anywhere: bytes of its name that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def decode(
    data: bytes | str | Path,
    bounds: Bounds = UNBOUNDED,
    name: str | None = None,
    least_shown: float = cut_short.LEAST_SHOWN,
) -> Tensor:
    """Decodes a picture to RGB.

    Grey, palette, CMYK and 16-bit pictures are converted (16 bits are scaled to 8, not clipped), transparency is laid
    on white, and the EXIF orientation is applied. JPEGs beyond the bounds are shrunk while they are decoded. What is
    missing at the end of a JPEG is grey (``cut_short.py``, whose ``said_of`` knows such a picture).

    Args:
        data: the encoded bytes, or the path of a file.
        bounds: how large the result may be.
        name: how the picture is called in errors; the path where there is one.
        least_shown: the part of a JPEG that must be there; other formats must be whole.

    Returns:
        uint8 ``[h, w, 3]``.

    Raises:
        UnreadableImage: it is no picture, is damaged or cut short, or claims more than ``MAX_PIXELS`` pixels.
    """
    name = name if name is not None else "bytes" if isinstance(data, bytes) else str(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused below, or is read all the same
        try:
            return _decoded(data, bounds, name)
        except UnreadableImage:
            raise
        except Exception as error:  # damaged files make Pillow's decoders raise anything from OSError to struct.error
            reason = _reason(error, data)
            if not isinstance(error, OSError) or error.errno is not None or isinstance(error, UnidentifiedImageError):
                raise UnreadableImage(name, reason) from None
        with suppress(Exception):
            found = cut_short.shown(data if isinstance(data, bytes) else encoded(str(data)))
            if found is not None and found.part >= least_shown:
                return cut_short.mark(_decoded(found.data, bounds, name), found.part)
            if found is not None:
                reason += f"; {int(100 * found.part)} % can be shown"
    raise UnreadableImage(name, reason)


def _decoded(data: bytes | str | Path, bounds: Bounds, name: str) -> Tensor:
    """As ``decode``, of a picture that is whole; errors are Pillow's."""
    with opened(data, name) as image:
        wanted = bounds.fit(*image.size)
        if wanted != image.size:
            image.draft(None, wanted)  # JPEG: the decoder itself shrinks, by 2, 4 or 8, not below `wanted`
        image.load()
        return to_rgb(image, wanted)


def opened(data: bytes | str | Path, name: str) -> Image.Image:
    """A picture of which no more than the header is read, to be closed; beside ``cut_short.py``, the only way to Pillow
    for others' pictures.

    Raises:
        UnreadableImage: it is no file, or claims more than ``MAX_PIXELS`` pixels.
        Exception: of any kind, by Pillow, where it is no picture or is damaged.
    """
    if not isinstance(data, bytes):
        _check_opens(data, name)
    image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnreadableImage(name, f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
    return image


def _check_opens(path: str | Path, name: str) -> None:
    """Raises UnreadableImage for what would keep its reader waiting, or never end: pipes, sockets, devices."""
    mode = os.stat(path).st_mode  # noqa: PTH116
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is an error of its own, when it is opened
        raise UnreadableImage(name, "not a file")


def encoded(path: str) -> bytes:
    """A picture's file, as it is.

    Raises:
        UnreadableImage: it is no file, can't be read, or has more than ``MOST_BYTES``.
    """
    try:
        _check_opens(path, path)
        with open(path, "rb") as file:  # noqa: PTH123
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise UnreadableImage(path, too_large(size))
            return file.read(size)
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise UnreadableImage(path, _reason(error, path)) from None


def too_large(size: int) -> str:
    """Why a picture of more than ``MOST_BYTES`` is not read."""
    return f"{size >> 20} MiB are more than {MOST_BYTES >> 20}"


def size_of(data: bytes | str) -> tuple[int, int]:
    """Width and height that the header of a picture states, of its bytes or its file; raises ``UnreadableImage``."""
    name = "bytes" if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with opened(data, name) as image:
                return image.size
    except UnreadableImage:
        raise
    except Exception as error:  # as in `decode`
        raise UnreadableImage(name, _reason(error, data)) from None


def common_side(size: Callable[[int], tuple[int, int]], count: int) -> int | None:
    """The side of ``count`` pictures where they are small (at most 96 pixels) and square, all alike, else None; judged
    from the headers of the first, middle and last."""
    sizes: set[tuple[int, int]] = set()
    for index in {0, count // 2, count - 1}:
        try:
            sizes.add(size(index))
        except UnreadableImage:
            continue
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height <= 96 else None


def to_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """A loaded picture as RGB uint8 ``[h, w, 3]``, upright; ``size`` (width, height) is that before it is upright."""
    orientation = _orientation(image)
    image = _in_rgb(image)
    if size is not None and size != image.size:
        # an antialiased bilinear filter; the box reduction before it is exact and saves time on large pictures
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(image))


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        if image.mode == "F":  # 0..1, or 0..255 where any value says so
            grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
            grey = grey * 255 if grey.max() <= 1 else grey
        else:  # "I" is how older Pillows open 16-bit pictures
            grey = grey * (255 / 65535)
        return Image.fromarray((np.clip(grey, 0, 255) + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason to lose the picture
        return 1


def _reason(error: Exception, data: bytes | str | Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = not data if isinstance(data, bytes) else Path(data).stat().st_size == 0
        return "empty" if empty else "not a picture of a known format"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than {MAX_PIXELS} pixels"
    text = " ".join(str(error).split())
    return text or type(error).__name__
