"""Data sets of Hugging Face's library: saved on this disk or on the hub, by number or as a stream.

``hf:PATH[:SPLIT]`` or ``hf:USER/NAME[/CONFIG][@REVISION][:SPLIT]``; ``hf-stream:`` and the same. The library runs no
code of a data set (since version 4.0 it can't). It gives the encoded bytes, which are decoded here, or the path of a
file, which is opened if it lies in the data set's folder or in the library's caches.
"""

import importlib
import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hardviews.data.reading.decode import (
    UNBOUNDED,
    Bounds,
    UnreadableImage,
    common_side,
    decode,
    encoded,
    printable,
    size_of,
)
from hardviews.data.sources.streams import Encoded, Stream
from hardviews.data.sources.table import IMAGE_COLUMN, LABEL_COLUMN, TEST_SPLITS, no_column, numbered
from hardviews.errors import InputError, RunError

PREFIX, STREAM_PREFIX = "hf:", "hf-stream:"


class Name(NamedTuple):
    """The parts of a data set's name."""

    name: str
    config: str | None
    revision: str | None
    split: str | None


class Hub:
    """The rows of a data set, mapped from disk.

    ``labels`` are whole numbers, or strings in sorted order. They are None if one is missing or negative, or if
    there is no such column; ``unlabelled`` then says which. ``native_size`` comes from the first, middle and last
    image.

    Args:
        data: its name, with the prefix.
        split: ``train`` or ``test``, if the name has none.
        image_column: if the default is absent, the only column of images takes its place.
        label_column: the default may be absent.

    Raises:
        InputError: the library is not installed or finds no such data set, or there is no column of images.
    """

    def __init__(
        self, data: str, split: str = "train", image_column: str = IMAGE_COLUMN, label_column: str = LABEL_COLUMN
    ) -> None:
        self.name = printable(data)
        with _one_line(data):
            named = parsed(data.removeprefix(PREFIX))
            rows, _ = _loaded(named, split, streaming=False)
            self._folders = _folders(named)
            self._column, self._rows = _encoded(rows, image_column, data)
            self._fingerprint = str(rows._fingerprint)
        if not len(self):
            raise InputError(f"{self.name}: the data set has no rows")
        self.labels, self.class_names, self.unlabelled = _labels(rows, label_column, self.name)
        self.native_size = common_side(lambda index: size_of(self._content(index)), len(self))

    def __len__(self) -> int:
        return len(self._rows)

    def identity(self) -> str:
        return repr((self.name, self._fingerprint, self._column))

    def path(self, index: int) -> str:
        return f"{self.name}:{index}"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        return decode(self._content(index), bounds, self.path(index))

    def encoded(self, index: int) -> bytes:
        """The bytes of image ``index``; raises ``UnreadableImage``."""
        content = self._content(index)
        return encoded(content) if isinstance(content, str) else content

    def _content(self, index: int) -> bytes | str:
        try:
            return _content(self._rows[index][self._column], self._folders)
        except _NoImageError as error:
            raise UnreadableImage(self.path(index), str(error)) from None


def hub_stream(data: str, images: int | None, image_column: str = IMAGE_COLUMN) -> Stream:
    """A data set as a stream, shard by shard. Nothing is downloaded beforehand.

    Args:
        data: its name, with the prefix.
        images: per epoch; None for the number that the data set states.
        image_column: if the default is absent, the only column of images takes its place.

    Raises:
        InputError: as for ``Hub``, or the number of images is not known.
    """
    with _one_line(data):
        named = parsed(data.removeprefix(STREAM_PREFIX))
        rows, known = _loaded(named, "train", streaming=True)
        folders = _folders(named)
        column, rows = _encoded(rows, image_column, data)
        shards = int(rows.num_shards)
        images = images or known
    if not images:
        raise InputError(f"epoch-images: {printable(data)} does not say how many images it has; give the number")

    def read(shard: int) -> Iterator[Encoded]:
        try:
            for row in rows.shard(num_shards=shards, index=shard):
                try:
                    content = _content(row[column], folders)
                    yield Encoded(encoded(content) if isinstance(content, str) else content, "")
                except _NoImageError as error:
                    yield Encoded(b"", str(error))
                except UnreadableImage as error:
                    yield Encoded(b"", error.reason)
        except (GeneratorExit, RunError):
            raise
        except Exception as error:  # the library, and what it reads with, raise anything
            raise RunError(f"{printable(data)}: shard {shard} of {shards} can't be read: {_short(error)}") from error

    names = [f"{printable(data)}:{shard}" for shard in range(shards)]
    return Stream(printable(data), names, images, read)


def parsed(data: str) -> Name:
    """Parses a name without its prefix. What exists on this disk is a path."""
    path, _, split = data.rpartition(":")
    for name, of in ((data, None), (path, split)):
        if name and Path(name).expanduser().exists():
            return Name(str(Path(name).expanduser()), None, None, of)
    found = re.fullmatch(r"([^/@:]+(?:/[^/@:]+)?)(?:/([^/@:]+))?(?:@([^:]+))?(?::(.+))?", data)
    if found is None:
        raise InputError(f"hf: {printable(data)!r} is no path, and no USER/NAME[/CONFIG][@REVISION][:SPLIT]")
    return Name(*found.groups())


class _NoImageError(Exception):
    """A row without an image."""


def _loaded(named: Name, split: str, streaming: bool) -> tuple[Any, int | None]:
    """The rows of a split, and their number if it is known."""
    try:
        library: Any = importlib.import_module("datasets")
    except ImportError:
        raise InputError("hf: Hugging Face's datasets is not installed; pip install 'hardviews[large]'") from None
    path = Path(named.name)
    if any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
        found = library.load_from_disk(named.name)
        if named.split and not isinstance(found, dict):
            raise InputError(f"hf: {named.name} is one split; leave :{named.split} out")
    elif path.is_file():
        found = library.load_dataset("parquet", data_files=named.name, streaming=streaming)
    else:
        wanted = {"name": named.config, "revision": named.revision, "streaming": streaming}
        found = library.load_dataset(named.name, split=named.split, **wanted)
    if isinstance(found, dict):
        names = [named.split] if named.split else ["train"] if split == "train" else list(TEST_SPLITS)
        if not named.split and len(found) == 1 and split == "train":
            names = list(found)
        chosen = next((name for name in names if name in found), None)
        if chosen is None:
            raise InputError(f"hf: {named.name} has no split {' or '.join(names)}; it has {', '.join(found)}")
        found = found[chosen]
    if not isinstance(found, library.Dataset):
        return found, getattr((found.info.splits or {}).get(str(found.split)), "num_examples", None)
    known = len(found)
    # A data set saved on this disk opens in this form alone.
    return found.to_iterable_dataset(num_shards=max(1, len(found.cache_files))) if streaming else found, known


def _encoded(rows: Any, wanted: str, data: str) -> tuple[str, Any]:
    """The name of the column of images, and that column alone, encoded."""
    library: Any = importlib.import_module("datasets")
    features = rows.features
    if features is None:
        raise InputError(f"{printable(data)}: its columns are not known before it is read")
    columns = [name for name, feature in features.items() if isinstance(feature, library.Image)]
    binary = [name for name, feature in features.items() if getattr(feature, "dtype", "").endswith("binary")]
    column = columns[0] if len(columns) == 1 and wanted == IMAGE_COLUMN else wanted
    if column not in columns + binary:
        raise InputError(f"{printable(data)}: no image column {wanted!r}; the columns are {', '.join(features)}")
    rows = rows.select_columns([column])
    return column, rows.cast_column(column, library.Image(decode=False)) if column in columns else rows


def _folders(named: Name) -> list[str]:
    """The folders whose files rows may name: the data set's own, and the library's caches."""
    config: Any = importlib.import_module("datasets").config
    hub: Any = importlib.import_module("huggingface_hub.constants")
    found = [config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, hub.HF_HUB_CACHE]
    if Path(named.name).exists():
        found.append(named.name if Path(named.name).is_dir() else Path(named.name).parent)
    whole = (os.path.abspath, os.path.realpath)  # the library resolves links in some names only
    return sorted({path(folder) for folder in found for path in whole})


def _content(value: Any, folders: Sequence[str]) -> bytes | str:
    """The bytes of an image, or its file.

    A row can name any file of this machine, and others' data sets must not read those. So the file must lie in one of
    the folders. Links in the folders are followed.
    """
    content = (value["bytes"] or value["path"]) if isinstance(value, dict) else value
    if not content:
        raise _NoImageError("null")
    if not isinstance(content, str):
        return bytes(content)
    if "://" in content:
        raise _NoImageError("an address or a member of an archive, and no file")
    path = os.path.abspath(content)  # noqa: PTH100 (without "..", and links as they are)
    if not any(Path(path).is_relative_to(folder) for folder in folders):
        raise _NoImageError("a file outside of the data set's folder")
    return path


def _labels(rows: Any, column: str, name: str) -> tuple[Tensor | None, list[str] | None, str]:
    if column not in rows.features:
        if column == LABEL_COLUMN:
            return None, None, no_column(list(rows.features))
        raise InputError(f"{name}: no label column {column!r}; the columns are {', '.join(rows.features)}")
    values = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    labels, names, unlabelled = numbered(values, f"{name}: labels in column {column!r} are {rows.features[column]}")
    if labels is not None and names is None:
        names = getattr(rows.features[column], "names", None)
    return labels, names, unlabelled


@contextmanager
def _one_line(data: str) -> Generator[None, None, None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library's errors have no common base class, and several lines
        raise InputError(f"{printable(data)}: {_short(error)}") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
