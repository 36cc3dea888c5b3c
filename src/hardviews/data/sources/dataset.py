"""Data of one's own: a map-style ``Dataset``, or a list of images, as a source."""

import hashlib
import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage, common_side, decode
from hardviews.data.reading.given import STORED, of_given
from hardviews.data.sources.base import ImageSource
from hardviews.data.sources.table import numbered
from hardviews.errors import InputError

PREFIX = "python:"
AS_STORED = Bounds(form=None)
HASHED = 1000  # images, spread evenly, whose pixels an identity covers
REREAD = 8  # of these, images that are read twice, to find data sets that draw at random
MANY = 10_000  # items; a log line tells of reading more of them for their labels

log = logging.getLogger(__name__)


def as_source(
    data: Any, *, name: str | None = None, labels: Any = None, class_names: list[str] | None = None, version: str = ""
) -> ImageSource:
    """Any map-style ``torch.utils.data.Dataset``, list or array of images, as a source.

    An item is a PIL image, the path of an image file, a tensor or array ``[3, h, w]`` or ``[h, w, 3]`` (uint8, or float
    from 0 to 1; one channel is grey, as is uint8 ``[h, w]``), or a tuple of that and a label, an int or string. Images
    may differ in size. Arrays and tensors of up to 32 channels, of uint8, uint16, int16 or any floats, are read as they
    are where the run asks for that.
    Return them as they are: the views are drawn later, so leave random transforms and ``Normalize`` out of the data
    set.

    Worker processes read items, each from its own copy of ``data``, as a ``DataLoader`` does. Open files lazily, in
    ``__getitem__``. PIL images in a list are loaded now.

    Args:
        data: gives ``len(data)`` items by number.
        name: for tables and messages; by default the name of the class.
        labels: one int or string per item. By default those of the items. They come from ``data.targets`` if that
            agrees with the first and last item; else every item is read once.
        class_names: the name of every label, by default ``data.classes``.
        version: change it when the images change.

    Returns:
        A source that takes the place of any other. A run resumes, and cached features are used, only if name, number,
        ``version`` and the pixels of up to 1,000 images, spread evenly, are the same; of a larger set, ``version`` must
        tell of other changes. If images differ each time they are read, a run resumes without comparing their pixels.

    Raises:
        InputError: no length, no items by number, or no items; the first, middle or last item is no image; labels do
            not fit. A wrong item elsewhere counts as an unreadable image when it is read.

    Example:
        >>> import numpy as np
        >>> source = as_source([(np.zeros((32, 32, 3), np.uint8), "cat"), (np.ones((3, 40, 30)), "dog")])
        >>> len(source), source.class_names, source.read(1).shape
        (2, ['cat', 'dog'], torch.Size([40, 30, 3]))
    """
    return DatasetSource(data, name, labels, class_names, version)


class DatasetSource:
    """See ``as_source``, which makes it."""

    def __init__(self, data: Any, name: str | None, labels: Any, class_names: list[str] | None, version: str) -> None:
        self.data, self.version = data, version
        self.name = name or type(data).__name__
        self._count = _count(data)
        for item in data if isinstance(data, list | tuple) else ():
            image = item[0] if isinstance(item, tuple | list) and item else item
            if isinstance(image, Image.Image):
                image.load()  # processes can't share the position in an open file
        for index in dict.fromkeys((0, self._count // 2, self._count - 1)):
            try:
                self.read(index, AS_STORED)
            except UnreadableImage as error:
                raise InputError(str(error)) from error.__cause__
        self.native_size = common_side(self._size, len(self))
        self.labels: Tensor | None = None
        self.class_names: list[str] | None = None
        self.unlabelled = ""
        self._set_labels(labels, class_names)

    def __len__(self) -> int:
        return self._count

    def identity(self) -> str:
        return repr((self.name, len(self), self.version, self._digest(HASHED)))

    def content(self) -> str:
        """A text that changes when the images change; of images that differ each time they are read, ``version``."""
        fixed = self._digest(REREAD) == self._digest(REREAD)
        return repr((self.version, self._digest(HASHED) if fixed else ""))

    def _digest(self, count: int) -> str:
        """Of the pixels of at most ``count`` images, spread evenly."""
        digest = hashlib.blake2b(digest_size=16)
        for index in sorted({round(k) for k in np.linspace(0, len(self) - 1, min(len(self), count))}):
            try:
                image = self._shown_or_stored(index)
                digest.update(repr(tuple(image.shape)).encode() + image.numpy().tobytes())
            except UnreadableImage as error:
                digest.update(str(error).encode())
        return digest.hexdigest()

    def _shown_or_stored(self, index: int) -> Tensor:
        try:
            return self.read(index)
        except UnreadableImage:
            return self.read(index, AS_STORED)

    def path(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        return read_image(self._item(index)[0], bounds, self.path(index))

    def _item(self, index: int) -> tuple[Any, Any]:
        """Image and label of an item; the label is None if there is none."""
        try:
            item = self.data[index]
        except Exception as error:  # of the user's code, which can raise anything
            raise UnreadableImage(self.path(index), f"raised {type(error).__name__}: {_short(error)}") from error
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) != 2:
            raise UnreadableImage(self.path(index), f"came as {type(item).__name__} of {len(item)}; {STORED}")
        return item[0], item[1]

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self.read(index, AS_STORED).shape[:2]
        return width, height

    def _set_labels(self, given: Any, class_names: list[str] | None) -> None:
        n = len(self)
        if given is None:
            given = self._labels_of_items()
        if given is None:
            self.unlabelled = "its items carry no label: give (image, label) pairs or labels="
            return
        values = [_plain(label) for label in given]
        if len(values) != n:
            raise InputError(f"{self.name}: {len(values)} labels for {n} items")
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        self.labels, found, self.unlabelled = numbered(values, f"{self.name}: labels are {kinds}")
        names = class_names or found or _classes(self.data)
        if self.labels is not None and names is not None:
            most = int(self.labels.max())
            if most >= len(names):
                raise InputError(f"{self.name}: label {most} has no name among {len(names)} class names")
            self.class_names = list(names)

    def _labels_of_items(self) -> Any:
        n = len(self)
        ends = [_plain(self._item(index)[1]) for index in (0, n - 1)]
        if ends[0] is None:
            return None
        targets = getattr(self.data, "targets", None)
        if targets is not None and len(targets) == n and [_plain(targets[0]), _plain(targets[n - 1])] == ends:
            return targets
        if n > MANY:
            log.warning("%s: all %d items are read once for their labels; labels=… saves that", self.name, n)
        labels = []
        for index in range(n):
            try:
                labels.append(self._item(index)[1])
            except UnreadableImage as error:
                raise InputError(f"{error}; with labels=… items are not read for their labels") from error.__cause__
        return labels


def read_image(image: Any, bounds: Bounds, name: str) -> Tensor:
    """A PIL image, an array or tensor, or an image file's path, as ``[h, w, C]`` in the form of the bounds.

    Args:
        image: as ``as_source`` takes it.
        bounds: how large the result may be, and its form.
        name: for the error.

    Raises:
        UnreadableImage: it is none of these, damaged, or of another form.
    """
    if isinstance(image, str | Path):
        return decode(image, bounds)
    try:
        return of_given(image, bounds)
    except Exception as error:  # a lazily opened file can raise anything
        raise UnreadableImage(name, _short(error)) from error


def from_dotted_path(data: str) -> ImageSource:
    """The source of ``python:package.module:function``: what the function returns, called without arguments.

    Raises:
        InputError: it can't be imported or called, or returns no data.
    """
    module, _, function = data.removeprefix(PREFIX).partition(":")
    try:
        if not module or not function:
            raise ValueError("give python:package.module:function")
        found: Any = getattr(importlib.import_module(module), function)()
    except Exception as error:  # of the user's code, which can raise anything
        raise InputError(f"{data}: {type(error).__name__}: {_short(error)}") from error
    return found if isinstance(found, DatasetSource) else as_source(found, name=data.removeprefix(PREFIX))


def _count(data: Any) -> int:
    kind = type(data).__name__
    if isinstance(data, torch.utils.data.DataLoader):
        raise InputError(f"data: got {kind}; give its data set, {kind}.dataset")
    if isinstance(data, str | bytes | dict) or not hasattr(data, "__getitem__"):
        raise InputError(f"data: {kind} gives no images by number; give a map-style Dataset or a list of images")
    try:
        count = len(data)
    except (TypeError, NotImplementedError):
        raise InputError(f"data: {kind} has no length; give a map-style Dataset or a list of images") from None
    if not count:
        raise InputError(f"data: the {kind} is empty")
    check_several(data, "data")
    return count


def check_several(images: Any, option: str) -> None:
    """Raises InputError for an array or tensor that is one image, whose rows would be taken for grey images."""
    shape = list(getattr(images, "shape", ()))
    if len(shape) == 2 or (len(shape) == 3 and {shape[0], shape[2]} & {1, 3}):
        raise InputError(f"{option}: got one image, of shape {shape}; give a list of images")


def _plain(label: Any) -> Any:
    """A label as Python's own int or str, whatever library it comes from."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        array = np.asarray(label)
        return array.item() if array.size == 1 else label
    return label


def _classes(data: Any) -> list[str] | None:
    names = getattr(data, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
