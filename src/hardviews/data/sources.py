"""What data is to the rest: a numbered collection of pictures; and how a name or path becomes one."""

import hashlib
from pathlib import Path
from typing import Protocol

from torch import Tensor

from hardviews.data.decode import UNBOUNDED, Bounds, printable
from hardviews.data.folder import Folder
from hardviews.data.hub import PREFIX, Hub
from hardviews.data.remote import STREAMS
from hardviews.data.shapes import COUNTS, Shapes
from hardviews.data.shards import Shards, shards_at
from hardviews.data.streaming import Stream
from hardviews.data.table import IMAGE_COLUMN, LABEL_COLUMN, Table, tables_in
from hardviews.data.tar import LABEL
from hardviews.data.torchvision_sets import NAMES, TorchvisionSet
from hardviews.errors import InputError, unknown

COMPARED = 1_000_000  # names: at least so many, where there are, tell one set of pictures from another


class ImageSource(Protocol):
    """N pictures by number. Labels are for evaluation; pretraining never looks at them.

    Args:
        name: what it is called in tables and messages.
        labels: int64 ``[N]``, or None.
        class_names: the name of every label, where known.
        native_size: the side of the pictures where they are small (at most 96) and square, all alike; else None.
    """

    name: str
    labels: Tensor | None
    class_names: list[str] | None
    native_size: int | None

    def __len__(self) -> int: ...

    def identity(self) -> str:
        """What is another text once the pictures are others, as far as names, sizes and times of files tell."""
        ...

    def path(self, index: int) -> str:
        """How picture ``index`` is called in messages and tables."""
        ...

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Picture ``index``, uint8 ``[h, w, 3]``, shrunk to the bounds; raises ``UnreadableImage``."""
        ...


def why_unlabelled(source: ImageSource) -> str:
    """Why a source has no labels, and what to do, where it knows; for the end of a sentence."""
    reason: str = getattr(source, "unlabelled", "")
    return reason or "give class folders or a label column"


def passed_over(source: ImageSource) -> str:
    """What of its data a source does not read although it looks like pictures, in words; nothing where it reads all."""
    said: str = getattr(source, "passed_over", "")
    return said


def fingerprint(source: ImageSource | Stream) -> str:
    """The number of pictures and a digest of their names: it tells when pictures were added, taken away or renamed.

    Content is not looked at. Rows of tables and of other libraries' sets have numbers for names, so of them the number
    alone counts; and of two million names or more, every second or so is taken.
    """
    digest = hashlib.blake2b(digest_size=6)
    numbers = range(0, len(source), max(1, len(source) // COMPARED))
    names = source.shards if isinstance(source, Stream) else map(source.path, numbers)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return f"{len(source)} {digest.hexdigest()}"


def is_named(data: str) -> bool:
    """Whether ``data`` is the name of a set that comes with a test split, and not a path."""
    name = data.lower().split(":", 1)[0]
    return not Path(data).exists() and (name == "shapes" or name in NAMES)


def open_source(
    data: str,
    *,
    split: str = "train",
    root: str | Path = "data",
    image_column: str = IMAGE_COLUMN,
    label_column: str = LABEL_COLUMN,
    download: bool = False,
) -> ImageSource:
    """Opens a data set.

    Args:
        data: an existing path (a folder of images, a Parquet file or a folder of them, a tar or a folder of them),
            which wins over a name; tars by a pattern with braces or wildcards; ``shapes`` or ``shapes:N``, the built-in
            set with N training and N / 5 test images; ``hf:`` and the name of a data set of Hugging Face's library; or
            a torchvision set such as ``cifar10``, in any case.
        split: ``train`` or ``test``; of paths, only a folder of ``train-*.parquet`` and ``test-*.parquet`` heeds it.
        root: where torchvision's sets lie.
        image_column, label_column: of a table. The default image column gives way to the only other one that holds
            images, and the default label column may be absent. Of tars, extensions: by default any of an image, and
            ``cls``.
        download: lets torchvision fetch a missing set.

    Raises:
        InputError: missing or empty folder, no image in it, a table that can't be used, or an unknown name.
    """
    if not data:
        raise InputError("data: no path and no name given")
    if data.startswith(STREAMS):
        raise InputError(f"{printable(data)}: its images have no numbers, so pretrain alone takes it")
    if data.startswith(PREFIX):
        return Hub(data, split, image_column, label_column)
    path = Path(data).expanduser()
    if path.exists():
        tables = tables_in(path, split)
        if tables:
            return Table(tables, str(path), image_column, label_column)
    shards = shards_at(data)
    if shards:
        image = None if image_column == IMAGE_COLUMN else image_column
        return Shards(shards, data, image, LABEL if label_column == LABEL_COLUMN else label_column)
    if path.exists():
        return Folder(path)
    name, _, count = data.lower().partition(":")
    if name == "shapes":
        return _shapes(data, count, split)
    if data.lower() in NAMES:
        return TorchvisionSet(data.lower(), split, root, download)
    if len(path.parts) > 1 or path.suffix or data.startswith((".", "~")):
        raise InputError(f"{printable(data)}: no such file or folder")
    error = unknown("data set", data, ["shapes", *NAMES])
    raise InputError(f"{error} (and no such file or folder)")


def _shapes(data: str, count: str, split: str) -> Shapes:
    if ":" not in data:
        return Shapes(split)
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{data}: give the number of images as shapes:{COUNTS['train']}")
    return Shapes(split, int(count) if split == "train" else max(int(count) // 5, 1))
