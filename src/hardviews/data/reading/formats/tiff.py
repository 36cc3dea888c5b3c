"""TIFF, BigTIFF, GeoTIFF and OME-TIFF, by tifffile: any bands and types, and windows without the rest of the scene."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from hardviews.data.reading.formats.layout import Layout
from hardviews.data.reading.formats.scene import MOST_DECODED, Content, Scene, Window, check_bytes
from hardviews.data.reading.forms import Array
from hardviews.views.pixels import MOST_CHANNELS

_COMPRESSIONS = {1, 5, 8, 32946, 32773, 34925, 50000}  # none, LZW, deflate twice, run lengths, LZMA, Zstandard
_PICTURES = {7, 33003, 33004, 33005, 34712}  # JPEG and JPEG 2000, whose segments have headers of their own
_WHITE_IS_0, _PALETTE, _YCBCR, _OTHER_COLOURS = 0, 3, 6, (5, 8, 9, 10)
_MULTIPLIED, _ALPHA = 1, 2  # kinds of extra samples


class PillowReadsError(Exception):
    """Colours of a kind that Pillow converts to RGB, and this reader does not."""


def is_tiff(start: bytes) -> bool:
    """Also of BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def kept_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow, which has opened this file, keeps all of its bands and bits."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None or tags.get(262) in (_PALETTE, _YCBCR, *_OTHER_COLOURS):
        return True
    bands, bits = tags.get(277, 1), set(tags.get(258, (1,)))
    return bands == len(image.getbands()) and (bands == 1 or bits == {8})


@contextmanager
def tiff(content: Content) -> Iterator[Scene]:
    """The first series of a file, at full size; what it has besides rows, columns and channels are frames.

    The samples of a pixel are bands; the last is transparency only where the file says so and there is one or there are
    three others. A palette becomes RGB of 8 bits. White that is stored as 0 is inverted.
    """
    library: Any = importlib.import_module("tifffile")
    # It reports on every odd tag; what matters is raised.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file = BytesIO(content) if isinstance(content, bytes) else content
    with library.TiffFile(file, _multifile=False) as opened:  # an OME-TIFF can name other files
        series = opened.series[0]
        page = series.keyframe
        _check_kind(page)
        layout = _layout(series)
        whole = None
        if series.dataoffset is not None:  # uncompressed, in one piece
            dtype = series.dtype.newbyteorder(opened.byteorder)
            whole = _mapped(content, dtype, series.dataoffset, tuple(series.shape))

        def read(frame: int, at: Window) -> Array:
            if whole is not None:
                return _meant(page, layout.cut(whole, frame, at))
            pages = len(page.shape)  # the last axes lie in a page
            inner = Layout(layout.axes[-pages:], layout.shape[-pages:])
            outer = [axis for axis in layout.axes[:-pages] if axis != "C"]
            place = dict(
                zip(outer, np.unravel_index(frame // inner.frames, [layout.size(axis) for axis in outer]), strict=True)
            )
            if "C" not in layout.axes[:-pages]:
                return _meant(page, _window(opened, _page(series, layout, place, 0), page, inner, frame, at))
            check_bytes(at.height, at.width, layout.size("C"), page.dtype.itemsize)
            planes = [
                _window(opened, _page(series, layout, place, channel), page, inner, frame, at)
                for channel in range(layout.size("C"))
            ]
            return _meant(page, np.concatenate(planes, axis=2))

        yield Scene(layout.frames, layout.size("Y"), layout.size("X"), read, opacity=_opacity(page, layout.size("C")))


def _check_kind(page: Any) -> None:
    """Raises for colours, types and compressions that are not read here."""
    if page.photometric in _OTHER_COLOURS or (page.photometric == _YCBCR and page.compression not in _PICTURES):
        raise PillowReadsError
    if page.dtype is None:
        raise ValueError(f"{page.bitspersample}-bit numbers of format {int(page.sampleformat)} are not read")
    if page.compression not in _COMPRESSIONS | _PICTURES:
        raise ValueError(f"compressed as {getattr(page.compression, 'name', page.compression)}, which is not read")


def _layout(series: Any) -> Layout:
    """With C for the bands of a pixel, or for channels in separate pages, and a letter of its own for every other axis.

    OME-TIFFs without metadata call slices channels; where there are too many for channels they are frames.
    """
    axes, shape = series.axes, tuple(series.shape)
    if shape[len(shape) - len(series.keyframe.shape) :] != tuple(series.keyframe.shape):
        raise ValueError(f"pages of shape {list(series.keyframe.shape)} in a series of shape {list(shape)}")
    channel = "S" if "S" in axes else "C"
    if channel == "C" and channel in axes and shape[axes.index(channel)] > MOST_CHANNELS:
        channel = ""
    letters = [
        "C" if axis == channel else axis if axis in "YX" else chr(ord("a") + number) for number, axis in enumerate(axes)
    ]
    return Layout("".join(letters), shape)


def _mapped(content: Content, dtype: Any, start: int, shape: tuple[int, ...]) -> Array:
    size = len(content) if isinstance(content, bytes) else Path(content).stat().st_size
    if (wanted := prod(shape) * dtype.itemsize) > size - start:
        raise ValueError(f"cut short: {max(size - start, 0)} of {wanted} bytes of data")
    if isinstance(content, bytes):
        return np.frombuffer(content, dtype, prod(shape), start).reshape(shape)
    return np.memmap(content, dtype, "r", start, shape)


def _page(series: Any, layout: Layout, place: dict[str, Any], channel: int) -> Any:
    """The page at a place of the outer axes."""
    outer = layout.axes[: len(layout.axes) - len(series.keyframe.shape)]
    index = [channel if axis == "C" else int(place[axis]) for axis in outer]
    found = series.pages[int(np.ravel_multi_index(index, layout.shape[: len(outer)])) if outer else 0]
    if found is None:
        raise ValueError("lacks a page that it names")
    return found


def _window(opened: Any, found: Any, page: Any, layout: Layout, frame: int, at: Window) -> Array:
    """A window of a page, ``[h, w, C]``: only the tiles or strips that it touches are read.

    Args:
        opened: the file.
        found: the page, of which a later one of a series knows where its data is and no more.
        page: the series' first page, which knows how to decode it.
        layout: of the page.
    """
    if layout.frames > 1 or getattr(page, "is_volumetric", False):
        raise ValueError("pages of several slices are not read")
    separate = layout.axes == "CYX"
    bands = layout.size("C")
    check_bytes(at.height, at.width, bands, page.dtype.itemsize)
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:  # a file of one strip may claim any number of rows
        height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
    if height * width * bands * page.dtype.itemsize > MOST_DECODED:
        raise ValueError(
            f"tiles or strips of {width}x{height} pixels are too large to decode: store it in smaller ones"
        )
    down, across = -(-page.imagelength // height), -(-page.imagewidth // width)
    rows = range(at.top // height, (at.top + at.height - 1) // height + 1)
    columns = range(at.left // width, (at.left + at.width - 1) // width + 1)
    array = np.full((at.height, at.width, bands), page.nodata, page.dtype)
    for plane, row, column in product(range(bands if separate else 1), rows, columns):
        index = (plane * down + row) * across + column
        segment, (_, _, top, left, _), _ = page.decode(
            _segment(opened, found, page, index, height, width), index, jpegtables=page.jpegtables
        )
        if segment is None:  # a hole, which holds no data
            continue
        y, x = max(top, at.top), max(left, at.left)
        part = segment[0, y - top : at.top + at.height - top, x - left : at.left + at.width - left]
        channels = slice(plane, plane + 1) if separate else slice(None)
        array[y - at.top : y - at.top + part.shape[0], x - at.left : x - at.left + part.shape[1], channels] = part
    return array


def _segment(opened: Any, found: Any, page: Any, index: int, height: int, width: int) -> bytes | None:
    """The encoded bytes of a tile or strip; None for a hole."""
    start, size = found.dataoffsets[index], found.databytecounts[index]
    if not size:
        return None
    opened.filehandle.seek(start)
    check_bytes(size)
    data: bytes = opened.filehandle.read(size)
    if len(data) < size:
        raise ValueError(f"cut short: {len(data)} of {size} bytes of a tile or strip")
    if page.compression in _PICTURES:  # a decoder believes the segment's own header
        with Image.open(BytesIO(data), formats=("JPEG", "JPEG2000")) as picture:
            if picture.width > width or picture.height > height:
                raise ValueError(f"a tile of {width}x{height} pixels holds {picture.width}x{picture.height}")
    return data


def _meant(page: Any, array: Array) -> Array:
    """Stored numbers as what they mean: a palette's colours, white that is 0."""
    bands = array.shape[2]
    if page.photometric == _PALETTE and page.colormap is not None and bands == 1:
        return (page.colormap[:, array[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)  # type: ignore[no-any-return]
    if page.bitspersample == 1 and array.dtype == np.uint8:
        array = array * 255
    if page.photometric == _WHITE_IS_0 and array.dtype.kind in "ub":
        most = (1 << page.bitspersample) - 1 if page.bitspersample > 1 else 255
        array = ~array if array.dtype == bool else most - array
    return array


def _opacity(page: Any, bands: int) -> Literal["", "plain", "multiplied"]:
    """What the file says of its last band. Writers call a fourth band of 16 bits alpha without being asked, so only
    that of 8 bits is transparency."""
    extra = tuple(page.extrasamples)
    if bands not in (2, 4) or len(extra) != 1 or extra[0] not in (_MULTIPLIED, _ALPHA) or page.dtype != np.uint8:
        return ""
    return "multiplied" if extra[0] == _MULTIPLIED else "plain"
