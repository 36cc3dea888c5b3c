"""Frames of files and windows of large scenes as images: the same files, cut by an index that headers alone make."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardviews.data.indexing.cache import cache_folder
from hardviews.data.indexing.index import read, record_batch, write
from hardviews.data.reading.decode import (
    UNBOUNDED,
    Bounds,
    Extent,
    Part,
    UnreadableImage,
    Window,
    decode,
    extent_of,
)
from hardviews.data.sources.base import ImageSource, passed_over, why_unlabelled
from hardviews.data.sources.folder import Folder
from hardviews.errors import InputError
from hardviews.wording import several

log = logging.getLogger(__name__)

FORMAT = 1  # of the index of many files; one of another format is made again
MANY = 10_000  # files whose index is kept
MOST = 1 << 50  # pixels of all frames of a file; headers that claim more lie
UNKNOWN = Extent(1, 0, 0)  # of a file whose header can't be read: one part, which then tells why


class Place(NamedTuple):
    """Where a part lies: the number of its file, and what of it."""

    file: int
    part: Part


class Parts:
    """The parts of the files of a source, numbered file by file, frame by frame, then from top left to bottom right.

    With ``tile``, every frame is cut into squares of this side, beginning at the top left. Where the side does not
    divide a frame, the last row and column are moved inwards to end at the border, so they overlap their neighbours and
    every pixel is in a part; a frame that is smaller than a tile is one part. Labels are those of the files. Parts of
    one file are alike, and a held-out tenth of them is no new data.

    A tile whose pixels are all equal is empty, which is known when it is read: ``UnreadableImage``, with the reason
    ``decode.EMPTY``.

    Args:
        source: files, or encoded images.
        tile: side of the squares in pixels; 0 for whole frames.
        every_frame: whether all frames of a file are read; else the first.

    Raises:
        InputError: the source has no files, or ``tile`` is negative.
    """

    def __init__(self, source: ImageSource, tile: int = 0, every_frame: bool = False) -> None:
        if tile < 0:
            raise InputError(f"tile: {tile} must be 0 or more pixels")
        self.source, self.tile, self.every_frame = source, tile, every_frame
        self._content = _content(source)
        self.name, self.class_names = source.name, source.class_names
        self.unlabelled = why_unlabelled(source)
        self._extents = self._indexed()  # [files, 3]
        frames, heights, widths = self._extents.T
        self._frames = frames if every_frame else np.ones_like(frames)
        self._across = _tiles(widths, tile)
        self._in_frame = self._across * _tiles(heights, tile)
        counts = self._frames * self._in_frame
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.labels: Tensor | None = None
        if source.labels is not None:
            self.labels = source.labels.repeat_interleave(torch.from_numpy(counts))
        self.passed_over = self._said(getattr(source, "passed_files", passed_over(source)), int((frames > 1).sum()))
        self.native_size = self._native_size()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def identity(self) -> str:
        digest = hashlib.blake2b(self._extents.tobytes(), digest_size=16).hexdigest()
        return f"{self.source.identity()} tile {self.tile} frames {self.every_frame} {digest}"

    def path(self, index: int) -> str:
        """The file, and where in it the part lies: its frame, counted from 0, and the window's top left pixel."""
        file, (frame, window) = self.place(index)
        said = f" frame {frame}" if self.every_frame and self._frames[file] > 1 else ""
        said += f" y {window.top} x {window.left}" if window and self._in_frame[file] > 1 else ""
        return f"{self.source.path(file)}{said and ':'}{said}"

    def place(self, index: int) -> Place:
        """Where part ``index`` lies."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._starts, index, "right")) - 1
        frame, within = divmod(index - int(self._starts[file]), int(self._in_frame[file]))
        _, height, width = self._extents[file].tolist()
        if not self.tile or not height:
            return Place(file, Part(frame))
        row, column = divmod(within, int(self._across[file]))
        top, left = (
            max(0, min(number * self.tile, size - self.tile)) for number, size in ((row, height), (column, width))
        )
        return Place(file, Part(frame, Window(top, left, min(self.tile, height), min(self.tile, width))))

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Part ``index``, ``[h, w, C]``; raises ``UnreadableImage``, also of an empty tile."""
        file, part = self.place(index)
        return decode(self._content(file), bounds, self.path(index), part=part)

    def _native_size(self) -> int | None:
        """As of every source; known of all parts."""
        heights, widths = self._extents[:, 1], self._extents[:, 2]
        if self.tile and self.tile <= 96 and min(heights.min(), widths.min()) >= self.tile:
            return self.tile
        side = int(heights[0])
        alike = bool((heights == side).all() and (widths == side).all())
        return side if alike and 0 < side <= (min(96, self.tile) if self.tile else 96) else None

    def _said(self, passed: str, with_frames: int) -> str:
        if with_frames and not self.every_frame:
            left_out = several(with_frames, "file has", "files have")
            passed = f"{passed}; " if passed else ""
            return f"{passed}{left_out} several frames, of which the first is read (--frames all reads all)"
        return passed

    def _indexed(self) -> NDArray[np.int64]:
        """Frames, height and width of every file; of many files they are kept for as long as these are the same."""
        count = len(self.source)
        if count < MANY:
            return np.array([self._extent(file) for file in range(count)], np.int64).reshape(-1, 3)
        digest = hashlib.blake2b(self.source.identity().encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        file = cache_folder("index") / f"{digest}.parts"
        index = read(file)
        if index is None or index.meta.get("format") != FORMAT:
            log.warning("%s: the headers of %s are read, once", self.name, several(count, "file"))
            index = write(file, self._rows, {"format": FORMAT})
        return np.stack([index.numbers(name) for name in Extent._fields], axis=1)

    def _rows(self) -> Iterator[Any]:
        for start in range(0, len(self.source), MANY):
            files = range(start, min(start + MANY, len(self.source)))
            columns = np.array([self._extent(file) for file in files], np.int64).T
            yield record_batch(**dict(zip(Extent._fields, map(np.ascontiguousarray, columns), strict=True)))

    def _extent(self, file: int) -> Extent:
        try:
            found = extent_of(self._content(file))
        except UnreadableImage:
            return UNKNOWN
        return found if prod(found) <= MOST else UNKNOWN


def _content(source: ImageSource) -> Callable[[int], bytes | str]:
    """What gives the file of an image, or its encoded bytes."""
    if isinstance(source, Folder):
        return source.path
    encoded: Callable[[int], bytes | str] | None = getattr(source, "encoded", None)
    if encoded is None:
        raise InputError(f"{source.name}: --tile and --frames take images in files, tables or shards, which it has not")
    return encoded


def _tiles(sizes: NDArray[np.int64], tile: int) -> NDArray[np.int64]:
    """How many tiles cover a side."""
    return np.maximum(1, -(-sizes // tile)) if tile else np.ones_like(sizes)
