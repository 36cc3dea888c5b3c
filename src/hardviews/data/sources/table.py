"""Parquet tables with a column of encoded images, as the Hugging Face hub keeps them."""

import hashlib
import importlib
import json
import os
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardviews.data.indexing.cache import cache_folder, written_whole
from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage, common_side, decode, printable, size_of
from hardviews.errors import InputError
from hardviews.wording import several

HELD_BYTES = 1 << 30  # of encoded images; larger tables are mapped from disk instead of held in memory
ROWS = 256  # rows unpacked at a time; bounds the memory
IMAGE_COLUMN, LABEL_COLUMN = "image", "label"  # these may be absent; a column with another name must exist
TEST_SPLITS = ("test", "validation", "val")


def tables_in(path: Path, split: str = "train") -> list[Path]:
    """The Parquet files at a path: the file itself, or those in the folder or in its ``data`` folder, sorted.

    If some are called ``<split>-…``, as on the Hugging Face hub, only these.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    files = files_called(path, ".parquet") or files_called(path / "data", ".parquet")
    for name in ("train",) if split == "train" else TEST_SPLITS:
        of_split = [file for file in files if file.name.startswith(f"{name}-")]
        if of_split:
            return of_split
    if split != "train" and any(file.name.startswith("train-") for file in files):
        raise InputError(f"{printable(str(path))}: holds train-*.parquet and no test split; name the file to test on")
    return files


def files_called(folder: Path, extension: str) -> list[Path]:
    """The files in a folder with this extension, sorted; none if there is no such folder.

    ``glob`` would hold the names of all other files, of which there may be millions.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.name.endswith(extension))


class Table:
    """The rows of one or more Parquet files; the image column is binary, or a struct with a field ``bytes``.

    Tables of up to ``HELD_BYTES`` are held in memory, encoded. Reading one row of a Parquet file is expensive, so
    larger tables are unpacked once to a file in ``$HARDVIEWS_CACHE`` (``~/.cache/hardviews``) and mapped. That takes as
    much disk space.

    ``labels`` are integers, or strings in sorted order. They are None if a label is null or negative, or if there is no
    such column; ``unlabelled`` then says which. ``native_size`` comes from the first, middle and last image.

    Raises:
        InputError: no Parquet, no rows, a column that is missing or of another type, or no space to unpack.
    """

    def __init__(
        self, files: Sequence[Path], name: str, image_column: str = IMAGE_COLUMN, label_column: str = LABEL_COLUMN
    ) -> None:
        self.name = printable(name)
        self.files = list(files)
        parquet: Any = importlib.import_module("pyarrow.parquet")
        opened: list[Any] = []
        for file in self.files:
            with _readable(file):
                opened.append(parquet.ParquetFile(file, memory_map=True))
        self.rows = [int(table.metadata.num_rows) for table in opened]
        if not sum(self.rows):
            raise InputError(f"{self.name}: the table has no rows")
        schema = opened[0].schema_arrow
        self.column = _image_column(schema, image_column, self.name)
        for file, table in zip(self.files, opened, strict=True):
            if self.column not in table.schema_arrow.names:
                raise InputError(f"{printable(str(file))}: no column {self.column!r}, which {self.files[0].name} has")
        self.labels, self.class_names, self.unlabelled = _labels(opened, schema, label_column, self.name)
        self._open()
        self.native_size = common_side(lambda index: size_of(self.encoded(index)), len(self))

    def __len__(self) -> int:
        return sum(self.rows)

    def identity(self) -> str:
        stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return repr((stamps, self.column))

    def path(self, index: int) -> str:
        for file, rows in zip(self.files, self.rows, strict=True):
            if index < rows:
                return f"{file}:{index}"
            index -= rows
        raise IndexError(index)

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image of row ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        return decode(self.encoded(index), bounds, self.path(index))

    def encoded(self, index: int) -> bytes:
        """The bytes of the image of row ``index``; raises ``UnreadableImage``."""
        data: bytes | None = self._cell(index).as_py()
        if data is None:
            raise UnreadableImage(self.path(index), "null")
        return data

    def encoded_size(self, index: int) -> int:
        """Their number, without reading them."""
        content = self._cell(index).as_buffer()
        return 0 if content is None else int(content.size)

    def _cell(self, index: int) -> Any:
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked opens the files again; their content is not sent.
        return {key: value for key, value in self.__dict__.items() if key not in ("_parts", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        tables = [parquet.ParquetFile(file, memory_map=True) for file in self.files]
        self._parts: list[Any] = []  # Arrow's arrays of encoded images, in order
        held = sum(map(_image_bytes, tables)) <= HELD_BYTES
        for file, table in zip(self.files, tables, strict=True):
            batches = table.iter_batches(batch_size=ROWS, columns=[self.column], use_threads=False)
            with _readable(file):
                if held:
                    self._parts += [_encoded(batch.column(0)) for batch in batches]
                else:
                    self._parts += _mapped(file, self.column, batches)
        self._starts = [0]
        for part in self._parts[:-1]:
            self._starts.append(self._starts[-1] + len(part))


@contextmanager
def _readable(file: Path) -> Generator[None, None, None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pyarrow's errors have no common base class but Exception
        reason = " ".join(str(error).split())
        raise InputError(f"{printable(str(file))}: can't be read as Parquet: {reason}") from None


def _image_bytes(table: Any) -> int:
    """The size of all columns of a table, unpacked. Nearly all of it is images."""
    return sum(table.metadata.row_group(k).total_byte_size for k in range(table.metadata.num_row_groups))


def _encoded(column: Any) -> Any:
    """The binary column of images: the column itself, or the field of a struct, null where the struct is null."""
    types: Any = importlib.import_module("pyarrow.types")
    if not types.is_struct(column.type):
        return column
    return column.flatten()[column.type.get_field_index("bytes")]


def _mapped(file: Path, column: str, batches: Any) -> list[Any]:
    """Unpacks a column to an Arrow file unless that exists, and maps it."""
    arrow: Any = importlib.import_module("pyarrow")
    status = file.stat()
    key = repr((str(file.resolve()), status.st_size, status.st_mtime_ns, column)).encode("utf-8", "surrogateescape")
    cache = cache_folder("tables")
    target = cache / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.arrow"
    if not target.exists():
        batch = next(batches, None)
        if batch is None:
            return []
        try:
            with written_whole(target) as sink:  # another process may unpack it at the same time
                first = _encoded(batch.column(0))
                schema = arrow.schema([("image", first.type)])
                with arrow.ipc.new_file(sink, schema) as writer:
                    writer.write_batch(arrow.record_batch([first], schema=schema))
                    for batch in batches:
                        writer.write_batch(arrow.record_batch([_encoded(batch.column(0))], schema=schema))
        except OSError as error:
            why = error.strerror or str(error)
            raise InputError(
                f"{printable(str(file))}: can't be unpacked to {cache}: {why}; set HARDVIEWS_CACHE to a larger disk"
            ) from None
    reader = arrow.ipc.open_file(arrow.memory_map(str(target)))
    return [reader.get_batch(k).column(0) for k in range(reader.num_record_batches)]


def _image_column(schema: Any, wanted: str, name: str) -> str:
    types: Any = importlib.import_module("pyarrow.types")

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))

    columns: list[str] = [field.name for field in schema if holds_images(field.type)]
    if wanted in columns:
        return wanted
    if wanted in schema.names:
        raise InputError(f"{name}: column {wanted!r} is {schema.field(wanted).type}, not encoded images (binary)")
    if wanted == IMAGE_COLUMN and len(columns) == 1:
        return columns[0]
    raise InputError(f"{name}: no image column {wanted!r}; the columns are {', '.join(schema.names)}")


def _labels(tables: list[Any], schema: Any, column: str, name: str) -> tuple[Tensor | None, list[str] | None, str]:
    if any(column not in table.schema_arrow.names for table in tables):
        if column == LABEL_COLUMN:
            return None, None, no_column(schema.names)
        raise InputError(f"{name}: no label column {column!r}; the columns are {', '.join(schema.names)}")
    values: list[object] = []
    for table in tables:  # one column of small values is read as a whole
        values += table.read(columns=[column]).column(0).to_pylist()
    labels, names, unlabelled = numbered(values, f"{name}: labels in column {column!r} are {schema.field(column).type}")
    if labels is not None and names is None:
        names = _class_names(schema.metadata or {}, column)
    return labels, names, unlabelled


def no_column(columns: Sequence[str]) -> str:
    """Why there are no labels if there is no column of the usual name."""
    return f"it has no column {LABEL_COLUMN!r}; --label-column may name another of its columns, {', '.join(columns)}"


def numbered(values: list[object], what: str) -> tuple[Tensor | None, list[str] | None, str]:
    """Labels as numbers.

    Returns:
        Labels int64 ``[N]``, the names of labels that are strings, and an empty text. If a label is missing or
        negative: None, None, and a text that says in which rows.

    Raises:
        InputError: not all values are whole numbers, or strings. The message begins with ``what``.
    """
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) == len(values):
        names = sorted(set(texts))
        number = {text: k for k, text in enumerate(names)}
        return torch.tensor([number[text] for text in texts]), names, ""
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) + len(texts) + values.count(None) < len(values):
        raise InputError(f"{what}, not integers or strings")
    wrong = [row for row, value in enumerate(values) if not isinstance(value, int) or value < 0]
    if wrong:
        found = "null" if values[wrong[0]] is None else repr(values[wrong[0]])
        have = "has" if len(wrong) == 1 else "have"
        rows = f"{len(wrong):,} of its {several(len(values), 'row')} {have} no label (row {wrong[0]} has {found})"
        return None, None, f"{rows}; give labels of 0 or more to all, or leave these rows out"
    return torch.tensor(numbers, dtype=torch.int64), None, ""


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """From ``class_names`` (a JSON list) or from the ClassLabel feature that Hugging Face writes."""
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
        else:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):  # no names are given, which is no fault
        return None
