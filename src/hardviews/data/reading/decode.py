"""Decodes images of every format, mode and size to pixels of bounded size: 8-bit RGB, or as they are stored."""

import os
import stat
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from traceback import walk_tb
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hardviews.data.reading import cut_short
from hardviews.data.reading.bounds import DECODE_SIZE, MAX_BATCH_BYTES, UNBOUNDED, Bounds, bounds_for
from hardviews.data.reading.formats.scene import MAX_PIXELS, Part, Scene, Window, check_pixels, in_short
from hardviews.data.reading.formats.table import install, is_store, opener_of
from hardviews.data.reading.formats.tiff import PillowReadsError, kept_by_pillow
from hardviews.data.reading.forms import of_array, of_picture, on_white, to_rgb
from hardviews.views.pixels import RGB, Pixels

# What others need of the files beside this one.
__all__ = [
    "DECODE_SIZE", "EMPTY", "FORMATS", "MAX_BATCH_BYTES", "MAX_PIXELS", "MOST_BYTES", "UNBOUNDED", "Bounds", "Extent",
    "Faults", "Part", "UnreadableImage", "Window", "bounds_for", "common_side", "decode", "encoded", "extent_of",
    "opened", "printable", "size_of", "to_rgb", "too_large",
]  # fmt: skip

# Pillow's names of the formats that are opened, whatever a file is called. Pillow decodes these itself. It hands others
# to programs (EPS to Ghostscript, without a time limit), or opens what they contain as any format.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
MOST_BYTES = 1 << 28  # an encoded image with more is not read

EMPTY = "empty: all its pixels are equal"  # why a window of a scene is left out

Faults = dict[int, str]  # number of an unreadable image → why


class UnreadableImage(Exception):  # noqa: N818 (tables show this name)
    """An image that can't be decoded: its path and the reason, which is the same on every try."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both as arguments, so that it can be pickled by a worker
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def printable(path: str) -> str:
    """A path that can be printed anywhere: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def decode(
    data: bytes | str | Path,
    bounds: Bounds = UNBOUNDED,
    name: str | None = None,
    least_shown: float = cut_short.LEAST_SHOWN,
    part: Part | None = None,
) -> Tensor:
    """Decodes an image.

    By default it becomes RGB: it converts grey, palette, CMYK and 16-bit images (16 bits are scaled to 8, not clipped),
    lays transparency on white, and applies the EXIF orientation. Bounds of another form want it as it is stored. It
    shrinks JPEGs beyond the bounds while it decodes them. The missing end of a JPEG is grey; ``cut_short.said_of``
    recognises such an image.

    Args:
        data: the encoded bytes, or the path of a file.
        bounds: how large the result may be, and its form.
        name: for errors; by default the path.
        least_shown: the fraction of a JPEG that must be present. Other formats must be complete.
        part: the frame of a file, or a window of it; by default the first frame.

    Returns:
        uint8 ``[h, w, 3]``, or of another form ``[h, w, C]``. ``forms.not_finite`` tells how many numbers of it were
        NaN or infinite.

    Raises:
        UnreadableImage: no image, damaged, cut short, more than ``MAX_PIXELS`` pixels, of another form than wanted, or
            an empty window.
    """
    name = name if name is not None else "bytes" if isinstance(data, bytes) else str(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of images that are refused below, or are fine
        try:
            return _decoded(data, bounds, name, part)
        except UnreadableImage:
            raise
        except Exception as error:  # for damaged files Pillow raises anything from OSError to struct.error
            reason = _reason(error, data)
            if not isinstance(error, OSError) or error.errno is not None or isinstance(error, UnidentifiedImageError):
                raise UnreadableImage(name, reason) from None
        with suppress(Exception):
            found = cut_short.shown(data if isinstance(data, bytes) else encoded(str(data)))
            if found is not None and found.part >= least_shown:
                return cut_short.mark(_decoded(found.data, bounds, name, part), found.part)
            if found is not None:
                reason += f"; {int(100 * found.part)} % can be shown"
    raise UnreadableImage(name, reason)


def _decoded(data: bytes | str | Path, bounds: Bounds, name: str, part: Part | None) -> Tensor:
    """Like ``decode``, for a complete image. Errors are those of the libraries."""
    with ExitStack() as stack:
        found = _open(stack, data, bounds.form, name, part is not None)
        if isinstance(found, Image.Image):
            if part is not None:
                return _not_empty(_part_of_picture(found, bounds, part), name, part)
            wanted = bounds.fit(*found.size)
            if wanted != found.size:
                found.draft(None, wanted)  # a JPEG decoder can shrink by 2, 4 or 8; not below `wanted`
            found.load()
            return of_picture(found, bounds.form, wanted, bounds.channels)
        frame, window = part or Part()
        window = window or Window(0, 0, found.height, found.width)
        check_pixels(window.height, window.width)
        _check_within(found.frames, found.height, found.width, Part(frame, window))
        pixels = found.read(frame, window)
        if found.opacity and pixels.shape[2] != bounds.channels:
            pixels = on_white(pixels, found.opacity == "multiplied")
        picture = of_array(pixels, bounds.form, bounds.fit(window.width, window.height), found.shown)
        return picture if part is None else _not_empty(picture, name, part)


def _open(
    stack: ExitStack, data: bytes | str | Path, form: Pixels | None, name: str, in_parts: bool
) -> Image.Image | Scene:
    """Pillow's image; or a scene of what Pillow does not open, or not as it is wanted. ``stack`` closes it."""
    as_stored = form is None or not form.converts
    if as_stored or in_parts or is_store(data):
        if not isinstance(data, bytes):
            _check_opens(data, name)
        scene = _scene(stack, data, as_stored)
        if scene is not None:
            return scene
    try:
        image = stack.enter_context(opened(data, name))
    except UnidentifiedImageError:
        scene = _scene(stack, data, as_stored=True)
        if scene is None:
            raise
        return scene
    if as_stored and not kept_by_pillow(image):
        raise ValueError(f"its bands or bits need tifffile: {install('tiff')}")
    return image


def _scene(stack: ExitStack, data: bytes | str | Path, as_stored: bool) -> Scene | None:
    opener = opener_of(data, as_stored)
    try:
        return None if opener is None else stack.enter_context(opener(data))
    except PillowReadsError:
        return None


def _part_of_picture(image: Image.Image, bounds: Bounds, part: Part) -> Tensor:
    """A frame or window of an image that Pillow decodes as a whole. A window is cut, then turned upright."""
    if part.frame:
        image.seek(part.frame)
        check_pixels(image.height, image.width)
    image.load()
    if part.window is None:
        return of_picture(image, bounds.form, bounds.fit(*image.size), bounds.channels)
    _check_within(part.frame + 1, image.height, image.width, part)
    top, left, height, width = part.window
    image = image.crop((left, top, left + width, top + height))
    return of_picture(image, bounds.form, bounds.fit(width, height), bounds.channels)


def _check_within(frames: int, height: int, width: int, part: Part) -> None:
    """Raises ValueError if a file has become smaller than when its parts were counted."""
    at = part.window or Window(0, 0, height, width)
    if part.frame >= frames or at.top + at.height > height or at.left + at.width > width:
        raise ValueError(f"has no such part any more: {frames} frames of {width}x{height} pixels")


def _not_empty(picture: Tensor, name: str, part: Part) -> Tensor:
    if part.window is not None and bool((picture == picture[:1, :1]).all()):
        raise UnreadableImage(name, EMPTY)
    return picture


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


class Extent(NamedTuple):
    """How much a file holds: frames, and the pixels of each."""

    frames: int
    height: int
    width: int


def extent_of(data: bytes | str, in_parts: bool = True) -> Extent:
    """What the header of a file says it holds. Animations count as one frame. Raises ``UnreadableImage``.

    Args:
        data: the encoded bytes, or the path of a file.
        in_parts: whether the file is opened to read parts of it.
    """
    name = "bytes" if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            found = _open(stack, data, RGB, name, in_parts)
            if isinstance(found, Scene):
                return Extent(found.frames, found.height, found.width)
            frames = getattr(found, "n_frames", 1) if in_parts and found.format == "TIFF" else 1
            return Extent(frames, found.height, found.width)
    except UnreadableImage:
        raise
    except Exception as error:  # as in `decode`
        raise UnreadableImage(name, _reason(error, data)) from None


def size_of(data: bytes | str) -> tuple[int, int]:
    """Width and height in the header of an image, from its bytes or file; raises ``UnreadableImage``."""
    found = extent_of(data, in_parts=False)
    return found.width, found.height


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


def _reason(error: Exception, data: bytes | str | Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = not data if isinstance(data, bytes) else Path(data).stat().st_size == 0
        return "empty" if empty else "not a picture of a known format"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more than {MAX_PIXELS} pixels"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    return str(error) if type(error) is ValueError and _is_own(error) else f"damaged ({in_short(error)})"


def _is_own(error: Exception) -> bool:
    """Whether an error was raised here, and says what is wrong by itself; decoders raise any kind on damaged files."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("hardviews.")
