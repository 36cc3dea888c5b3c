"""From a name or a path to a data set."""

from difflib import get_close_matches
from pathlib import Path

from hardviews.data.reading.decode import printable
from hardviews.data.reading.extensions import is_image, is_store_name, known_as
from hardviews.data.reading.tar import LABEL
from hardviews.data.sources import dataset
from hardviews.data.sources.base import ImageSource
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.hub import PREFIX, Hub
from hardviews.data.sources.parts import Parts
from hardviews.data.sources.shapes import COUNTS, Shapes
from hardviews.data.sources.shards import Shards, shards_at
from hardviews.data.sources.streams import is_stream
from hardviews.data.sources.table import IMAGE_COLUMN, LABEL_COLUMN, Table, tables_in
from hardviews.data.sources.torchvision_sets import NAMES, TorchvisionSet
from hardviews.errors import InputError, unknown

OBJECT = "object:"  # with a name, what a run folder says of data that was given as an object


def is_named(data: str) -> bool:
    """Whether ``data`` is no path but the name of a set with a test split."""
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
    tile: int = 0,
    every_frame: bool = False,
) -> ImageSource:
    """Opens a data set.

    Args:
        data: an existing path (a folder of images, a Parquet file or a folder of them, a tar or a folder of them);
            tars by a pattern with braces or wildcards; ``shapes`` or ``shapes:N``, the built-in
            set with N training and N / 5 test images; ``hf:`` and the name of a data set of Hugging Face's library;
            ``python:package.module:function``, whose result ``as_source`` takes; or a torchvision set such as
            ``cifar10``, in any case. An existing path takes precedence over a name.
        split: ``train`` or ``test``. Of paths, only a folder of ``train-*.parquet`` and ``test-*.parquet`` has splits.
        root: the folder of torchvision's sets.
        image_column, label_column: of a table. If the default image column is absent, the only column of images takes
            its place; the default label column may be absent. For tars they are extensions, by default any image
            extension and ``cls``.
        download: lets torchvision fetch a missing set.
        tile, every_frame: as of ``Parts``, which then has the images; a path may then be one file.

    Raises:
        InputError: missing or empty folder, no image in it, a table that can't be used, or an unknown name.
    """
    if tile or every_frame:
        path = Path(data).expanduser()
        single = (path.is_file() or is_store_name(path.name)) and path.exists() and is_image(known_as(str(path)))
        source = (
            Folder.of_file(path)
            if single
            else open_source(
                data, split=split, root=root, image_column=image_column, label_column=label_column, download=download
            )
        )
        return Parts(source, tile, every_frame)
    if not data:
        raise InputError("data: no path and no name given")
    if is_stream(data):
        raise InputError(f"{printable(data)}: a stream, whose images have no numbers; only pretrain reads it")
    if data.startswith(dataset.PREFIX):
        return dataset.from_dotted_path(data)
    if data.startswith(OBJECT):
        raise InputError(f"{data}: was given as an object, from Python; give it so again")
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
    beside = [found.name for found in Path().iterdir() if found.is_dir() or found.suffix in (".parquet", ".tar")]
    if close := get_close_matches(data, beside, n=1):
        raise InputError(f"{printable(data)}: no such file or folder; did you mean {printable(close[0])}?")
    error = unknown("data set", data, ["shapes", *NAMES])
    raise InputError(f"{error} (and no such file or folder)")


def _shapes(data: str, count: str, split: str) -> Shapes:
    if ":" not in data:
        return Shapes(split)
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{data}: give the number of images as shapes:{COUNTS['train']}")
    return Shapes(split, int(count) if split == "train" else max(int(count) // 5, 1))
