"""Tables of millions of rows, one per image: an Arrow IPC file in the cache, memory-mapped.

The file holds record batches. The metadata of the last batch, which has no rows, is a JSON object. A CRC-32 of all
bytes follows the Arrow file, since Arrow has no checksum of its own. A file of another format fails that check.
"""

import atexit
import importlib
import json
import logging
import shutil
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardviews.data.indexing.cache import cache_folder, written_whole
from hardviews.errors import InputError

log = logging.getLogger(__name__)

CACHED_FROM = 100_000  # images; smaller sets are listed each time, which takes a second or two
BLOCK = 1 << 20  # bytes read at a time
_CHECKSUM = 4  # bytes at the end of the file


def record_batch(**columns: Any) -> Any:
    """Arrow's record batch of numpy arrays (int64) and lists of bytes (binary)."""
    arrow: Any = importlib.import_module("pyarrow")
    arrays = [
        arrow.array(value, arrow.int64() if isinstance(value, np.ndarray) else arrow.binary())
        for value in columns.values()
    ]
    return arrow.record_batch(arrays, names=list(columns))


class Index:
    """The rows of record batches.

    Args:
        batches: Arrow's, at least one, with the same columns.
        meta: what was written with them.
        file: what they are mapped from. Pickling then sends the name of the file and no rows.
    """

    def __init__(self, batches: Sequence[Any], meta: Mapping[str, Any], file: Path | None = None) -> None:
        self.batches, self.meta, self.file = batches, meta, file
        self.starts: list[int] = [
            0,
            *accumulate(int(batch.num_rows) for batch in batches),
        ]  # of every batch its first row
        self._columns = {name: [batch.column(name) for batch in batches] for name in batches[0].schema.names}

    def __len__(self) -> int:
        return self.starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.file is None else {"file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["file"] is not None:
            batches, meta = _mapped(state["file"])
            state = Index(batches, meta, state["file"]).__dict__
        self.__dict__.update(state)

    def value(self, column: str, row: int) -> Any:
        """One value: an int or bytes."""
        part = bisect_right(self.starts, row) - 1
        return self._columns[column][part][row - self.starts[part]].as_py()

    def numbers(self, column: str) -> NDArray[np.int64]:
        """A whole column, copied to memory, int64 ``[N]``."""
        return np.concatenate([part.to_numpy() for part in self._columns[column]])


def read(file: Path) -> Index | None:
    """Maps a file that ``write`` wrote. None if it is absent, cut short, damaged, or of another format."""
    try:
        found = 0
        with file.open("rb") as opened:
            left = file.stat().st_size - _CHECKSUM
            while left > 0 and (block := opened.read(min(BLOCK, left))):
                found, left = zlib.crc32(block, found), left - len(block)
            if opened.read() != found.to_bytes(_CHECKSUM, "little"):
                return None
        return Index(*_mapped(file), file)
    except (OSError, ValueError):  # Arrow's errors are ValueErrors
        return None


def write(file: Path, rows: Callable[[], Iterator[Any]], meta: dict[str, Any], keep: bool = True) -> Index:
    """Writes record batches to a file and maps it.

    Without ``keep``, or where the cache can't be written, which a warning says, the file goes to a temporary folder
    that this process removes when it ends.

    Args:
        file: complete or absent afterwards.
        rows: gives at least one record batch. It is called again if the cache turns out to be full.
        meta: for JSON; ``rows`` may fill it, since it is written last.
        keep: whether the file is for later processes too.

    Raises:
        InputError: there is no room in the temporary folder either.
    """
    try:
        if keep:
            _write(file, rows(), meta)
    except OSError as error:
        log.warning("%s can't be written (%s): the index is made for this run alone", file.parent, error.strerror)
        keep = False
    if not keep:
        folder = Path(tempfile.mkdtemp(prefix="hardviews-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / file.name
        try:
            _write(file, rows(), meta)
        except OSError as error:
            raise InputError(
                f"the index can be kept neither in {cache_folder('')} nor in {folder.parent}: {error.strerror}; set "
                "HARDVIEWS_CACHE to a disk with room"
            ) from None
    written = read(file)
    if written is None:
        raise InputError(f"{file}: what was written can't be read back; is the disk failing?")
    return written


def _write(file: Path, batches: Iterator[Any], meta: Mapping[str, Any]) -> None:
    ipc: Any = importlib.import_module("pyarrow").ipc
    with written_whole(file) as part:
        sink = _Checked(part)
        first = next(batches)
        with ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
            writer.write_batch(first.slice(0, 0), custom_metadata={"meta": json.dumps(meta)})
        part.write(sink.checksum.to_bytes(_CHECKSUM, "little"))


def _mapped(file: Path) -> tuple[list[Any], dict[str, Any]]:
    arrow: Any = importlib.import_module("pyarrow")
    mapped = arrow.memory_map(str(file))
    reader = arrow.ipc.open_file(mapped.read_buffer(mapped.size() - _CHECKSUM))
    *batches, (_, meta) = map(reader.get_batch_with_custom_metadata, range(reader.num_record_batches))
    return [batch for batch, _ in batches], json.loads(meta[b"meta"])


class _Checked:
    """A file that counts the checksum of what is written to it."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file, self.checksum = file, 0

    def write(self, data: Any) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        return int(self._file.write(data))

    def flush(self) -> None:
        self._file.flush()
