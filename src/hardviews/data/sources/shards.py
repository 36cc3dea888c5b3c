"""WebDataset's shards on a disk: tar files of images, indexed once, then read by number like any other data."""

import functools
import glob
import hashlib
import logging
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from hardviews.data.indexing.cache import alone, cache_folder
from hardviews.data.indexing.index import CACHED_FROM, Index, read, record_batch, write
from hardviews.data.indexing.listing import is_folder
from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage, common_side, decode, printable, size_of
from hardviews.data.reading.extensions import in_words, is_image, readable
from hardviews.data.reading.tar import LABEL, BrokenTarError, Tar, samples
from hardviews.errors import InputError
from hardviews.wording import several

log = logging.getLogger(__name__)

FORMAT = 4  # of the index; an index of another format is built again
LARGE = 1 << 30  # bytes of shards; the index of larger sets is always kept, and one process makes it while others wait
OPEN = 256  # shards that a process keeps open


def expand(pattern: str) -> list[str]:
    """``a-{000..002}.tar`` as three names, ``{train,val}.tar`` as two; several braces in all combinations."""
    parts: list[list[str]] = []
    for text, inside in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
        if numbers:
            first, last = int(numbers[1]), int(numbers[2])
            width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
            parts += [[text], [f"{k:0{width}d}" for k in range(first, last + 1)]]
        elif "," in inside:
            parts += [[text], inside.split(",")]
        else:
            parts.append([f"{text}{{{inside}}}" if inside else text])
    return ["".join(combination) for combination in product(*parts)]


def shards_at(data: str) -> list[Path]:
    """The shards that a path or pattern names: a tar, a folder of tars without images, braces, or wildcards.

    The list is empty if it names something else.

    Raises:
        InputError: one of several shards is missing.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return [path] if path.suffix.lower() == ".tar" else []
    if path.is_dir():
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    if is_image(entry.name) or is_folder(entry):
                        return []  # at the first one: there may be millions
                    if entry.name.endswith(".tar"):
                        found.append(path / entry.name)
        return sorted(found)
    if not data.endswith(".tar"):
        return []
    names = [os.path.expanduser(name) for name in expand(data)]  # noqa: PTH111 (a pattern, no path)
    shards = [Path(match) for name in names for match in (sorted(glob.glob(name)) if _wild(name) else [name])]  # noqa: PTH207
    missing = next((shard for shard in shards if not shard.is_file()), None)
    if missing is not None and len(shards) > 1:
        raise InputError(f"{printable(data)}: of {several(len(shards), 'shard')} {printable(str(missing))} is missing")
    return [] if missing is not None else shards


class Shards:
    """The images of tar files, shard after shard in the order given, each in the order of its members.

    ``labels`` come from ``.cls`` members, or from another extension. They are None unless every sample has a whole
    number; ``unlabelled`` then says which has none. The index of many images is kept and mapped, and a copy sent to
    another process then has no labels. It is built again when the size or time of a shard changes. ``native_size``
    comes from the first, middle and last image.

    Args:
        files: the shards.
        name: for messages.
        image: the extension of the images; None for any known.
        label: the extension of the labels.

    Raises:
        InputError: a shard is damaged, or there is no image in any.
    """

    def __init__(self, files: Sequence[Path], name: str, image: str | None = None, label: str = LABEL) -> None:
        self.files, self.name = [str(file) for file in files], printable(name)
        self.image, self.label = image, label
        self.class_names: list[str] | None = None
        self._index, passed = self._indexed()
        self.passed_over = in_words(passed)
        if not len(self):
            wanted = "with an extension of images" if image is None else f"called .{image}"
            more = f"; {self.passed_over}" if self.passed_over else ""
            raise InputError(f"{self.name}: no member {wanted} in {several(len(self.files), 'shard')}{more}")
        self.labels, self.unlabelled = self._labels()
        self._opened: dict[int, _Opened] = {}
        self.native_size = common_side(lambda index: size_of(self.encoded(index)), len(self))

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the shards itself, and needs no labels, of which there may be millions.
        return self.__dict__ | {"_opened": {}} | ({"labels": None} if self._index.file else {})

    def identity(self) -> str:
        return repr((self._stamps, self.image))

    @functools.cached_property
    def _stamps(self) -> list[tuple[str, int, int]]:
        stamps = []
        for file in self.files:
            status = os.stat(file)  # noqa: PTH116
            stamps.append((os.path.realpath(file), status.st_size, status.st_mtime_ns))
        return stamps

    def path(self, index: int) -> str:
        return f"{self.files[self._shard(index)]}/{os.fsdecode(self._index.value('name', index))}"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        return decode(self.encoded(index), bounds, self.path(index))

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of image ``index``; raises ``UnreadableImage``."""
        start, size = self._index.value("start", index), self.encoded_size(index)
        if start < 0:
            raise UnreadableImage(self.path(index), "stored with holes (a sparse file), or too large")
        try:
            opened = self._open(self._shard(index))
            data = os.pread(opened.descriptor, size, start)
        except OSError as error:
            raise UnreadableImage(self.path(index), os.strerror(error.errno or 0)) from None
        if len(data) < size:
            raise UnreadableImage(self.path(index), "its shard has become shorter")
        return data

    def encoded_size(self, index: int) -> int:
        """Their number, without reading them."""
        return int(self._index.value("size", index))

    def _labels(self) -> tuple[Tensor | None, str]:
        labels = self._index.numbers("label")
        without = np.flatnonzero(labels < 0)
        if not len(without):
            return torch.from_numpy(labels), ""
        wanted = f"a member .{self.label} with a whole number"
        if len(without) == len(labels):
            return None, f"none of its images has {wanted}; --label-column names another extension"
        first = printable(self.path(int(without[0])))
        have = "has" if len(without) == 1 else "have"
        some = f"{len(without):,} of its {several(len(labels), 'image')} {have} no {wanted[2:]}"
        return None, f"{some}, such as {first}"

    def _open(self, shard: int) -> "_Opened":
        opened = self._opened.get(shard)
        if opened is None:
            if len(self._opened) >= OPEN:
                self._opened = {}  # a shard is closed when no thread reads it any more
            opened = self._opened[shard] = _Opened(self.files[shard])
        return opened

    def _shard(self, index: int) -> int:
        """The shard of an image: the index has a record batch per shard."""
        return bisect_right(self._index.starts, index) - 1

    def _indexed(self) -> tuple[Index, dict[str, int]]:
        """The index, which is kept if it is large, and the number of members passed over."""
        what = repr((self._stamps, self.image, self.label, sorted(readable())))
        key = repr(([stamp[0] for stamp in self._stamps], self.image, self.label))
        name = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        file = cache_folder("index") / f"{name}.shards"
        meta: dict[str, Any] = {
            "format": FORMAT, "of": hashlib.blake2b(what.encode("utf-8", "surrogateescape")).hexdigest()
        }  # fmt: skip
        large = file.exists() or sum(size for _, size, _ in self._stamps) > LARGE
        with alone(file) if large else nullcontext():
            index = read(file)
            if index is not None and meta.items() <= index.meta.items():
                return index, index.meta["passed"]
            if large:
                log.warning("%s: the headers of %s are read, once", self.name, several(len(self.files), "shard"))
                index = write(file, lambda: self._read_headers(meta), meta)
            else:
                index = Index(list(self._read_headers(meta)), meta)
                if len(index) >= CACHED_FROM:
                    batches = index.batches
                    index = write(file, lambda: iter(batches), meta)
            return index, meta["passed"]

    def _read_headers(self, meta: dict[str, Any]) -> Iterator[Any]:
        """A record batch per shard. Counts in ``meta`` what is passed over."""
        passed: Counter[str] = Counter()
        for shard in self.files:
            rows: list[tuple[int, int, int]] = []
            names: list[bytes] = []
            try:
                with open(shard, "rb") as opened:  # noqa: PTH123
                    for found in samples(Tar(_File(opened)), self.image, self.label, False, passed):
                        rows.append((-1 if found.fault else found.start, found.size, found.label))
                        names.append(os.fsencode(found.name))
            except BrokenTarError as error:
                raise InputError(f"{printable(shard)}: {error}; fetch or write this shard again") from None
            except OSError as error:
                raise InputError(f"{printable(shard)}: can't be read: {error.strerror}") from None
            start, size, label = np.array(rows, np.int64).reshape(-1, 3).T
            yield record_batch(start=start, size=size, label=label, name=names)
        meta["passed"] = dict(passed)


class _Opened:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, file: str) -> None:
        self.descriptor = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _File:
    """A file for ``Tar`` that seeks over content instead of reading it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.read = file.read

    def skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)


def _wild(name: str) -> bool:
    return any(sign in name for sign in "*?[")
