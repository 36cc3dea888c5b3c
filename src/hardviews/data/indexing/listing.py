"""The images in a folder of any size, in the order of their paths: a list, or an index that is built once and mapped.

An index is believed as long as every folder below has the time of change that it had: files that are added, removed or
renamed change that of their folder. Memory while it is built is that of ``PART`` paths and of the folders, whatever the
number of images.
"""

import hashlib
import heapq
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardviews.data.indexing import mapped
from hardviews.data.indexing.mapped import Columns, Mapped
from hardviews.data.reading.decode import printable
from hardviews.data.reading.extensions import is_image, passed_over
from hardviews.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 2  # of the index; another number builds all anew
PART = mapped.CACHED_FROM  # paths that are sorted in memory at once
NAMED = 3  # of the images beside class folders, how many are named
SETTLED = 2  # seconds since a folder changed, before which its time may not tell the next change from the last


class Listing(NamedTuple):
    """The images of a folder.

    Args:
        files: paths relative to the folder, sorted.
        labels: of every file the number of its first-level folder, int64 ``[N]``; None where some lie in none.
        first: the names of these folders, sorted; the empty one stands for no folder.
        entries: how many files and folders of any kind there are.
        passed: how many files look like pictures and are none of the images, by ``extensions.passed_over``.
        loose: how many images lie in no first-level folder.
        named: the first ``NAMED`` of these.
    """

    files: Sequence[str]
    labels: Tensor | None
    first: list[str]
    entries: int
    passed: dict[str, int]
    loose: int
    named: list[str]


class Paths(Sequence[str]):
    """The paths of an index; each is read as it is asked for."""

    def __init__(self, index: Mapped) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index["start"]) - 1

    def __getitem__(self, place: Any) -> Any:
        place = range(len(self))[place]
        if isinstance(place, range):
            return [self[k] for k in place]
        start = self._index["start"]
        return os.fsdecode(self._index["path"][start[place] : start[place + 1]].tobytes())


def listing(root: str) -> Listing:
    """Lists a folder, or maps its index.

    Raises:
        InputError: it, or a folder below, can't be listed, or there is no room for its index.
    """
    name = hashlib.blake2b(os.fsencode(os.path.realpath(root)), digest_size=16).hexdigest()
    file = mapped.cache_folder("index") / f"{name}.folder"
    walk = None
    if not file.exists():
        walk = _Walk(root)
        if walk.small:
            return walk.listed()
    with mapped.alone(file):
        index = mapped.read(file)  # of a former run, or of a process that has just built it
        if index is None or index.meta["format"] != FORMAT or not _still_true(root, index):
            walk = walk or _Walk(root)
            if walk.small:
                return walk.listed()
            log.warning("%s: more than %d images: they are indexed once, in %s", printable(root), PART, file)
            try:
                index = walk.index(file)
            except OSError as error:
                line = f"{printable(root)}: can't be indexed: {error.strerror}; TMPDIR may name a disk with room"
                raise InputError(line) from None
    labels = torch.from_numpy(index["label"]) if len(index["label"]) else None
    meta = index.meta
    return Listing(Paths(index), labels, meta["first"], meta["entries"], meta["passed"], meta["loose"], meta["named"])


class _Walk:
    """Every folder below a root once, and the images in them, ``PART`` at a time.

    Hidden files and folders are left out; links are followed, but every folder is listed once, so loops end.
    """

    def __init__(self, root: str) -> None:
        self.root, self.entries, self.loose = root, 0, 0
        self.passed: Counter[str] = Counter()
        self.first: set[str] = set()  # first-level folders with an image in them; "" for the root itself
        # Of an index; folders are those listed, each followed by a zero byte.
        self.columns = Columns(start="<i8", label="<i8", path="u1", folder="u1")
        self.stamp, self.newest, self.started = hashlib.blake2b(digest_size=16), 0, time.time()
        self._parts = self._walk()
        self._begun = list(islice(self._parts, 2))
        self.small = len(self._begun) < 2

    def listed(self) -> Listing:
        """All of few images."""
        self.columns.close()
        files = sorted(self._begun[0]) if self._begun else []
        first = sorted(self.first)
        number = {name: k for k, name in enumerate(first)}
        labels = None if "" in number else torch.tensor([number[_first(file)] for file in files])
        named = [file for file in files if os.sep not in file][:NAMED]
        return Listing(files, labels, first, self.entries, dict(self.passed), self.loose, named)

    def index(self, file: Path) -> Mapped:
        """The index of all images, written to a file; where a folder has just changed, it is for this run alone."""
        with ExitStack() as stack:
            sorted_parts: list[Iterator[str]] = []
            while self._begun:
                part = self._begun.pop(0)
                opened = stack.enter_context(TemporaryFile())
                opened.write(b"".join(os.fsencode(path) + b"\0" for path in sorted(part)))
                sorted_parts.append(_paths(opened))
                del part
                self._begun += islice(self._parts, 1)
            first = sorted(self.first)
            number = {name: k for k, name in enumerate(first)}
            columns = stack.enter_context(closing(self.columns))
            columns.append(start=0)
            named: list[str] = []
            merged, end = heapq.merge(*sorted_parts), 0
            while block := list(islice(merged, 10_000)):
                names = [os.fsencode(path) for path in block]
                ends = end + np.cumsum([len(name) for name in names])
                columns.append(start=ends, path=b"".join(names))
                if "" not in number:
                    columns.append(label=[number[_first(path)] for path in block])
                elif len(named) < NAMED:
                    named += [path for path in block if os.sep not in path][: NAMED - len(named)]
                end = int(ends[-1])
            meta = {
                "format": FORMAT, "first": first, "entries": self.entries, "stamp": self.stamp.hexdigest(),
                "passed": dict(self.passed), "loose": self.loose, "named": named,
            }  # fmt: skip
            return mapped.write(file, columns, meta, keep=self.newest / 1e9 < self.started - SETTLED)

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
                        if not hidden and is_folder(entry):
                            folders.append(os.path.join(below, entry.name))  # noqa: PTH118
                        # a name is enough: a link that leads nowhere is an image that can't be read, and is told so
                        elif not hidden and is_image(entry.name):
                            image = os.path.join(below, entry.name)  # noqa: PTH118
                            part.append(image)
                            self.loose += not below
                        elif kind := passed_over(entry.name):
                            self.passed[kind] += 1
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
        self.columns.append(folder=os.fsencode(folder) + b"\0")
        self.stamp.update(_stamp(status))
        self.newest = max(self.newest, status.st_mtime_ns)


def _still_true(root: str, index: Mapped) -> bool:
    """Whether every folder of an index is there, and has not changed."""
    stamp = hashlib.blake2b(digest_size=16)
    try:
        for folder in index["folder"].tobytes().split(b"\0")[:-1]:
            stamp.update(_stamp(os.stat(os.path.join(os.fsencode(root), folder))))  # noqa: PTH116, PTH118
    except OSError:
        return False
    return bool(stamp.hexdigest() == index.meta["stamp"])


def _stamp(status: os.stat_result) -> bytes:
    return b"%d %d;" % (status.st_ino, status.st_mtime_ns)


def _first(path: str) -> str:
    """The first-level folder that a path lies in, or nothing."""
    folder, separator, _ = path.partition(os.sep)
    return folder if separator else ""


def _paths(file: IO[bytes]) -> Iterator[str]:
    """Paths that each end in a zero byte, from the start of a file, a block at a time, as there may be many files."""
    file.seek(0)
    rest = b""
    while block := file.read(1 << 16):
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also where asking is an error: a link to itself is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
