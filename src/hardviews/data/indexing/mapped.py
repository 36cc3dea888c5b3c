"""Arrays too large for memory: they grow on disk, are kept in one file of a cache, and are mapped from it."""

import atexit
import contextlib
import json
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from hardviews.errors import InputError

log = logging.getLogger(__name__)

CACHED_FROM = 100_000  # images; what is less is listed again each time, which takes no longer than a second or two
SPOOLED = 8 << 20  # bytes of an array that are held in memory while it grows
BLOCK = 1 << 20  # bytes read and written at a time
MAGIC = b"HVARRAY1"
_END = struct.Struct("<QI8s")  # length of the JSON before it, checksum of all before it, MAGIC


def cache_folder(kind: str) -> Path:
    """``$HARDVIEWS_CACHE`` (``~/.cache/hardviews``) / ``kind``; it need not exist."""
    return Path(os.environ.get("HARDVIEWS_CACHE") or Path.home() / ".cache" / "hardviews") / kind


class Columns:
    """Arrays that grow at their ends, on disk once they are large.

    Args:
        kinds: name → numpy's dtype, such as ``start="<i8"``.
    """

    def __init__(self, **kinds: str) -> None:
        self.kinds = kinds
        # Closed by `close`: they live as long as the arrays grow.
        self.files: dict[str, IO[bytes]] = {name: SpooledTemporaryFile(SPOOLED) for name in kinds}  # noqa: SIM115

    def append(self, **values: Any) -> None:
        """Numbers, or bytes as they are, to the end of each array named."""
        for name, value in values.items():
            self.files[name].write(value if isinstance(value, bytes) else np.asarray(value, self.kinds[name]).tobytes())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them, in memory."""
        # A bytearray may be written to, so torch does not warn that it could not.
        return {
            name: np.frombuffer(bytearray().join(_blocks(file)), self.kinds[name]) for name, file in self.files.items()
        }

    def close(self) -> None:
        for file in self.files.values():
            file.close()


class Mapped:
    """Arrays of a file, mapped: read as they are used, and shared by all processes that map them.

    Sent to another process, only the file's name travels.
    """

    def __init__(self, file: Path, meta: Mapping[str, Any], places: Mapping[str, tuple[str, int, int]]) -> None:
        self.file, self.meta, self._places = file, meta, places
        self._map()

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def _map(self) -> None:
        # "c": nothing is written to the file, and torch does not warn that it could not write
        self._arrays = {
            name: np.asarray(np.memmap(self.file, kind, "c", start, (count,))) if count else np.empty(0, kind)
            for name, (kind, start, count) in self._places.items()
        }


def read(file: Path) -> Mapped | None:
    """The arrays of a file that ``write`` wrote; None where there is none, or it is cut short or damaged."""
    try:
        with file.open("rb") as opened:
            opened.seek(-_END.size, os.SEEK_END)
            body = opened.tell()
            length, checksum, magic = _END.unpack(opened.read())
            if magic != MAGIC or length > body:
                return None
            opened.seek(0)
            found = 0
            for block in iter(lambda: opened.read(min(BLOCK, body - opened.tell())), b""):
                found = zlib.crc32(block, found)
            if found != checksum:
                return None
            opened.seek(body - length)
            meta, places = json.loads(opened.read(length))
        return Mapped(file, meta, places)
    except (OSError, ValueError):
        return None


def write(file: Path, columns: Columns, meta: Mapping[str, Any], keep: bool = True) -> Mapped:
    """Writes arrays beside a file and renames them, so that it is whole or not there.

    Where they are not to be kept, or can't be, which is said, they go to a temporary folder that is gone with this
    process.

    Raises:
        InputError: there is no room for them there either.
    """
    try:
        if keep:
            _write(file, columns, meta)
    except OSError as error:
        log.warning("%s can't be written (%s): the index is made for this run alone", file.parent, error.strerror)
        keep = False
    if not keep:
        folder = Path(tempfile.mkdtemp(prefix="hardviews-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / file.name
        try:
            _write(file, columns, meta)
        except OSError as error:
            raise InputError(
                f"the index can be kept neither in {cache_folder('')} nor in {folder.parent}: {error.strerror}; set "
                "HARDVIEWS_CACHE to a disk with room"
            ) from None
    written = read(file)
    if written is None:
        raise InputError(f"{file}: what was written can't be read back; is the disk failing?")
    return written


def _write(file: Path, columns: Columns, meta: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    places: dict[str, tuple[str, int, int]] = {}
    checksum = 0
    beside = beside_of(file)
    with beside.open("xb") as part:
        try:
            for name, growing in columns.files.items():
                padding = bytes(-part.tell() % 64)  # arrays start where a processor likes them to
                part.write(padding)
                checksum = zlib.crc32(padding, checksum)
                start = part.tell()
                for block in _blocks(growing):
                    part.write(block)
                    checksum = zlib.crc32(block, checksum)
                kind = columns.kinds[name]
                places[name] = (kind, start, (part.tell() - start) // np.dtype(kind).itemsize)
            described = json.dumps([meta, places]).encode()
            part.write(described + _END.pack(len(described), zlib.crc32(described, checksum), MAGIC))
            part.flush()
            os.fsync(part.fileno())  # else a power cut may leave the name and not the content
            beside.replace(file)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def beside_of(file: Path) -> Path:
    """A name beside a file that nobody else takes, for what is to become the file. ``tempfile`` would give such a name
    too, but only with a file that nobody but its owner may ever read."""
    return file.with_name(f"{file.stem}-{uuid4().hex}.part")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    yield from iter(lambda: file.read(BLOCK), b"")
    file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def alone(file: Path) -> Generator[None, None, None]:
    """Holds a lock beside a file, so that of several processes one makes it and the others wait.

    Where there are no locks, all of them make it, which does no harm.
    """
    try:
        import fcntl

        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
