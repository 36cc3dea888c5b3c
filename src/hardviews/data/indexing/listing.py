"""The images in a folder of any size, in the order of their paths: a list, or an index that is built once and mapped.

An index is valid while every folder below has the same time of change. Adding, removing or renaming a file changes the
time of its folder. Building an index holds ``PART`` paths, the names of the folders and 8 bytes per label in memory.
"""

import hashlib
import heapq
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardviews.data.indexing.cache import alone, cache_folder
from hardviews.data.indexing.index import CACHED_FROM, Index, read, record_batch, write
from hardviews.data.reading.decode import printable
from hardviews.data.reading.extensions import (
    BESIDE,
    OUTNUMBER,
    is_array,
    is_image,
    is_store_name,
    known_as,
    passed_over,
    readable,
    stray,
)
from hardviews.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 5  # of the index; an index of another format is built again
PART = CACHED_FROM  # paths sorted in memory at once
ROWS = 10_000  # of a record batch of the index
NAMED = 3  # images beside class folders that a message names
SETTLED = 2  # seconds after a change in which another change may leave a folder's time the same


class Listing(NamedTuple):
    """The images of a folder.

    Args:
        files: paths relative to the folder, sorted.
        labels: for every file the number of its first-level folder, int64 ``[N]``; None if some lie in none.
        first: the names of these folders, sorted; the empty name stands for no folder.
        entries: the number of files and folders of any kind.
        passed: the number of files that look like images and are not read, by ``extensions.passed_over``.
        loose: the number of images in no first-level folder.
        named: the first ``NAMED`` of them.
    """

    files: Sequence[str]
    labels: Tensor | None
    first: list[str]
    entries: int
    passed: dict[str, int]
    loose: int
    named: list[str]


class Paths(Sequence[str]):
    """The paths of an index. Each is read when it is asked for."""

    def __init__(self, index: Index) -> None:
        self._index, self._count = index, int(index.meta["images"])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        place = range(self._count)[place]
        if isinstance(place, range):
            return [self[k] for k in place]
        return os.fsdecode(self._index.value("path", place))


def listing(root: str) -> Listing:
    """Lists a folder, or maps its index.

    Raises:
        InputError: the folder or one below it can't be listed, or there is no room for the index.
    """
    name = hashlib.blake2b(os.fsencode(os.path.realpath(root)), digest_size=16).hexdigest()
    file = cache_folder("index") / f"{name}.folder"
    walk = None
    if not file.exists():
        walk = _walked(root)
        if walk.small:
            return walk.listed()
    with alone(file):
        index = read(file)  # of an earlier run, or of a process that has just built it
        if (
            index is None
            or index.meta["format"] != FORMAT
            or index.meta["reads"] != sorted(readable())
            or not _still_true(root, index)
        ):
            walk = walk or _walked(root)
            if walk.small:
                return walk.listed()
            log.warning("%s: more than %d images: they are indexed once, in %s", printable(root), PART, file)
            try:
                index = walk.index(file)
            except OSError as error:
                line = f"{printable(root)}: can't be indexed: {error.strerror}; TMPDIR may name a disk with room"
                raise InputError(line) from None
    meta = index.meta
    labels = None if "" in meta["first"] else torch.from_numpy(index.numbers("label")[: meta["images"]])
    return Listing(Paths(index), labels, meta["first"], meta["entries"], meta["passed"], meta["loose"], meta["named"])


def _walked(root: str) -> "_Walk":
    """A walk that takes either pictures or arrays for images. Arrays beside pictures may be anything, unless there are
    ``OUTNUMBER`` of them to a picture or more."""
    walk = _Walk(root)
    outnumbered = walk.small and walk.passed[BESIDE] >= max(1, OUTNUMBER * walk.found)
    return _Walk(root, arrays=True) if outnumbered else walk


class _Walk:
    """Visits every folder below a root once and gives the images in them, ``PART`` at a time.

    It leaves hidden files and folders out. It follows links and lists every folder once, so loops end. A folder that
    holds one image (Zarr) is an image.

    Args:
        root: the folder.
        arrays: whether NumPy's files are the images, or the others.
    """

    def __init__(self, root: str, arrays: bool = False) -> None:
        self.root, self.arrays, self.entries, self.loose = root, arrays, 0, 0
        self.passed: Counter[str] = Counter()
        self.first: set[str] = set()  # first-level folders with an image in them; "" for the root itself
        self.named: list[str] = []  # the first images outside such folders
        self.folders: list[str] = []
        self.stamp, self.newest, self.started = hashlib.blake2b(digest_size=16), 0, time.time()
        self._parts = self._walk()
        self._begun = list(islice(self._parts, 2))
        self.small, self.found = len(self._begun) < 2, sum(map(len, self._begun))  # all of them if they are few

    def listed(self) -> Listing:
        """The listing of few images."""
        files = sorted(self._begun[0]) if self._begun else []
        first = sorted(self.first)
        number = {name: k for k, name in enumerate(first)}
        labels = None if "" in number else torch.tensor([number[_first(file)] for file in files])
        return Listing(files, labels, first, self.entries, dict(self.passed), self.loose, self.named)

    def index(self, file: Path) -> Index:
        """Writes the index. If a folder has just changed, the index is for this run alone."""
        with ExitStack() as stack:
            sorted_parts: list[IO[bytes]] = []
            while self._begun:
                part = self._begun.pop(0)
                opened = stack.enter_context(TemporaryFile())
                opened.write(b"".join(os.fsencode(path) + b"\0" for path in sorted(part)))
                sorted_parts.append(opened)
                del part
                self._begun += islice(self._parts, 1)
            first = sorted(self.first)
            number = {name: k for k, name in enumerate(first)}
            meta: dict[str, Any] = {
                "format": FORMAT, "first": first, "entries": self.entries, "stamp": self.stamp.hexdigest(),
                "passed": dict(self.passed), "loose": self.loose, "named": self.named, "images": 0,
                "reads": sorted(readable()),
            }  # fmt: skip

            def rows() -> Iterator[Any]:
                """The images in the order of their paths, then the folders, whose label is -1."""
                meta["images"] = 0
                merged = heapq.merge(*map(_paths, sorted_parts))
                while block := list(islice(merged, ROWS)):
                    meta["images"] += len(block)
                    labels = np.array([number[_first(path)] if "" not in number else -1 for path in block])
                    yield record_batch(path=list(map(os.fsencode, block)), label=labels)
                for start in range(0, len(self.folders), ROWS):
                    block = self.folders[start : start + ROWS]
                    yield record_batch(path=list(map(os.fsencode, block)), label=np.full(len(block), -1))

            return write(file, rows, meta, keep=self.newest / 1e9 < self.started - SETTLED)

    def _walk(self) -> Iterator[list[str]]:
        """Paths of images relative to the root, in parts, in no order."""
        part: list[str] = []
        seen: set[tuple[int, int]] = set()
        pending = [""]
        while pending:
            below = pending.pop()
            folder = os.path.join(self.root, below)  # noqa: PTH118 (Path would cost more than the file name)
            folders: list[str] = []
            image = ""
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                self._note(below, status)
                with os.scandir(folder) as listing:
                    for entry in listing:
                        self.entries += 1
                        hidden = entry.name.startswith(".")
                        if not hidden and not is_store_name(entry.name) and is_folder(entry):
                            folders.append(os.path.join(below, entry.name))  # noqa: PTH118
                            continue
                        name = known_as(entry.path)
                        # The name decides: a link that leads nowhere is reported as an unreadable image.
                        if hidden or not is_image(name):
                            if kind := passed_over(name):
                                self.passed[kind] += 1
                        elif is_array(name) != self.arrays:
                            self.passed[stray(name) if self.arrays else BESIDE] += 1
                        else:
                            image = os.path.join(below, entry.name)  # noqa: PTH118
                            part.append(image)
                            if not below:
                                self.loose += 1
                                self.named = sorted([*self.named, image])[:NAMED]
                        if len(part) == PART:
                            yield part
                            part = []
            except OSError as error:
                raise InputError(f"{printable(folder)}: can't be listed: {error.strerror}") from None
            if image:
                self.first.add(_first(image))
            pending.extend(sorted(folders, reverse=True))
        if part:
            yield part

    def _note(self, folder: str, status: os.stat_result) -> None:
        self.folders.append(folder)
        self.stamp.update(_stamp(status))
        self.newest = max(self.newest, status.st_mtime_ns)


def _still_true(root: str, index: Index) -> bool:
    """Whether every folder of an index exists and has not changed, and the same formats are read."""
    if index.meta["reads"] != sorted(readable()):
        return False
    stamp = hashlib.blake2b(digest_size=16)
    try:
        for row in range(index.meta["images"], len(index)):
            stamp.update(_stamp(os.stat(os.path.join(os.fsencode(root), index.value("path", row)))))  # noqa: PTH116, PTH118
    except OSError:
        return False
    return bool(stamp.hexdigest() == index.meta["stamp"])


def _stamp(status: os.stat_result) -> bytes:
    return b"%d %d;" % (status.st_ino, status.st_mtime_ns)


def _first(path: str) -> str:
    """The first-level folder of a path, or nothing."""
    folder, separator, _ = path.partition(os.sep)
    return folder if separator else ""


def _paths(file: IO[bytes]) -> Iterator[str]:
    """Reads paths that each end in a zero byte, a small block at a time, as many files are read at once."""
    file.seek(0)
    rest = b""
    while block := file.read(1 << 16):
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """False also where asking raises: a link to itself is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
