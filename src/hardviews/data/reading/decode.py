"""Decodes images of every mode and size to RGB uint8 of bounded size."""

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
from hardviews.errors import InputError
from hardviews.views.pixels import RGB, Pixels
from hardviews.wording import several

DECODE_SIZE = 512  # pixels of the shorter side to which a larger image is shrunk by default
# Pillow's names of the formats that are opened, whatever a file is called. Pillow decodes these itself. It hands others
# to programs (EPS to Ghostscript, without a time limit), or opens what they contain as any format.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 89_478_485  # images that claim more are refused before a pixel is decoded (Pillow's limit)

MOST_BYTES = 1 << 28  # an encoded image with more is not read

Faults = dict[int, str]  # number of an unreadable image → why

_UPRIGHT = {  # EXIF orientation → what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # the EXIF tag


class UnreadableImage(Exception):  # noqa: N818 (tables show this name)
    """An image that can't be decoded: its path and the reason, which is the same on every try."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both as arguments, so that it can be pickled by a worker
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Bounds:
    """How an image is decoded: how large it may be, and to which pixels. Larger images are shrunk and keep their aspect
    ratio. 0 means no bound.

    Args:
        side: pixels of the shorter side.
        pixels: height times width.
        form: by default 8-bit RGB, to which every image is converted; None for what is stored, whatever it is.
    """

    side: int = 0
    pixels: int = 0
    form: Pixels | None = RGB

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size to which an image of this size is shrunk; the same size if it is within the bounds."""
        scale = 1.0
        if self.side:
            scale = min(scale, self.side / min(width, height))
        if self.pixels:
            scale = min(scale, (self.pixels / (width * height)) ** 0.5)
        if scale == 1.0:
            return width, height
        # rounded down, so that the bound on pixels holds; the shorter side is exact
        shrunk = max(1, int(width * scale + 1e-6)), max(1, int(height * scale + 1e-6))
        if self.pixels and shrunk[0] * shrunk[1] > self.pixels:  # a side below one pixel was rounded up
            shrunk = min(shrunk[0], self.pixels), min(shrunk[1], self.pixels)
        return shrunk


UNBOUNDED = Bounds()
MAX_BATCH_BYTES = 1 << 30  # of the decoded pictures of a batch, by default


def bounds_for(
    batch_size: int, decode_size: int = 0, max_batch_bytes: int = MAX_BATCH_BYTES, form: Pixels = RGB
) -> Bounds:
    """What every image of a batch is shrunk to: its share of the batch's bytes, whatever the others are.

    Args:
        batch_size: images in the batch.
        decode_size: pixels of the shorter side; 0 stands for ``DECODE_SIZE``.
        max_batch_bytes: of the decoded batch.
        form: of the pixels.

    Raises:
        InputError: the batch's bytes leave less than one pixel to an image.
    """
    pixels = max_batch_bytes // (form.bytes * batch_size)
    if pixels < 1:
        raise InputError(
            f"max_batch_bytes: {several(max_batch_bytes, 'byte is', 'bytes are')} too few for a batch of "
            f"{several(batch_size, 'image')}"
        )
    return Bounds(decode_size or DECODE_SIZE, pixels, form)


def printable(path: str) -> str:
    """A path that can be printed anywhere: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def decode(
    data: bytes | str | Path,
    bounds: Bounds = UNBOUNDED,
    name: str | None = None,
    least_shown: float = cut_short.LEAST_SHOWN,
) -> Tensor:
    """Decodes an image to RGB.

    It converts grey, palette, CMYK and 16-bit images (16 bits are scaled to 8, not clipped), lays transparency on
    white, and applies the EXIF orientation. It shrinks JPEGs beyond the bounds while it decodes them. The missing end
    of a JPEG is grey; ``cut_short.said_of`` recognises such an image.

    Args:
        data: the encoded bytes, or the path of a file.
        bounds: how large the result may be.
        name: for errors; by default the path.
        least_shown: the fraction of a JPEG that must be present. Other formats must be complete.

    Returns:
        uint8 ``[h, w, 3]``.

    Raises:
        UnreadableImage: no image, damaged, cut short, or more than ``MAX_PIXELS`` pixels.
    """
    name = name if name is not None else "bytes" if isinstance(data, bytes) else str(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of images that are refused below, or are fine
        try:
            return _decoded(data, bounds, name)
        except UnreadableImage:
            raise
        except Exception as error:  # for damaged files Pillow raises anything from OSError to struct.error
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
    """Like ``decode``, for a complete image. Errors are Pillow's."""
    with opened(data, name) as image:
        wanted = bounds.fit(*image.size)
        if wanted != image.size:
            image.draft(None, wanted)  # a JPEG decoder can shrink by 2, 4 or 8; not below `wanted`
        image.load()
        return to_rgb(image, wanted)


def opened(data: bytes | str | Path, name: str) -> Image.Image:
    """Opens an image and reads its header alone. The caller closes it.

    All files of the user reach Pillow through here or ``cut_short.py``.

    Raises:
        UnreadableImage: no regular file, or more than ``MAX_PIXELS`` pixels.
        Exception: any kind, by Pillow, for what is no image or damaged.
    """
    if not isinstance(data, bytes):
        _check_opens(data, name)
    image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnreadableImage(name, f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
    return image


def _check_opens(path: str | Path, name: str) -> None:
    """Raises UnreadableImage for what may block or never end: pipes, sockets, devices."""
    mode = os.stat(path).st_mode  # noqa: PTH116
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder raises its own error
        raise UnreadableImage(name, "not a file")


def encoded(path: str) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: no file, can't be read, or more than ``MOST_BYTES``.
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
    """Why an image of more than ``MOST_BYTES`` is not read."""
    return f"{size >> 20} MiB are more than {MOST_BYTES >> 20}"


def size_of(data: bytes | str) -> tuple[int, int]:
    """Width and height in the header of an image, from its bytes or file; raises ``UnreadableImage``."""
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
    """The side of ``count`` images if they are small (at most 96 pixels), square and equal in size, else None. It looks
    at the headers of the first, middle and last image."""
    sizes: set[tuple[int, int]] = set()
    for index in {0, count // 2, count - 1}:
        try:
            sizes.add(size(index))
        except UnreadableImage:
            continue
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height <= 96 else None


def to_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """A loaded image as RGB uint8 ``[h, w, 3]``, upright. ``size`` (width, height) is that before it is turned."""
    orientation = _orientation(image)
    image = _in_rgb(image)
    if size is not None and size != image.size:
        # antialiased bilinear; the box reduction before it is exact and saves time on large images
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(image))


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        if image.mode == "F":  # 0..1, or 0..255 if any value is above 1
            grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
            grey = grey * 255 if grey.max() <= 1 else grey
        else:  # older Pillows open 16-bit images as "I"
            grey = grey * (255 / 65535)
        return Image.fromarray((np.clip(grey, 0, 255) + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not spoil the image
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
