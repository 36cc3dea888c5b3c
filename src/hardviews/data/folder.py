"""Any folder of images, nested or not, with or without class folders."""

import hashlib
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from hardviews.data.decode import UNBOUNDED, Bounds, decode, printable
from hardviews.data.listing import EXTENSIONS, Paths, listing
from hardviews.errors import InputError

SPLIT_FOLDERS = {"train", "val", "valid", "validation", "test", "unlabeled"}


class Folder:
    """The images in a folder and its sub-folders, in the order of their paths.

    Hidden files and folders are left out; links are followed, but every folder is listed once, so loops end. The paths
    of many are an index on disk (``listing.py``), and a copy sent to another process has no labels then.

    ``labels`` are the first-level folders where every image lies in one and there are at least two, unless all are
    called like splits (``train``, ``val``, ...).

    Raises:
        InputError: it is missing, is no folder, can't be listed, or has no image in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        if not Path(folder).exists():
            raise InputError(f"{printable(self.folder)}: no such folder")
        if not Path(folder).is_dir():
            raise InputError(f"{printable(self.folder)}: not a folder")
        self.name = printable(Path(self.folder).resolve().name)
        self.native_size: int | None = None
        found = listing(self.folder)
        self.files = found.files  # paths relative to the folder, sorted
        if not found.entries:
            raise InputError(f"{printable(self.folder)}: the folder is empty")
        if not self.files:
            known = " ".join(EXTENSIONS)
            raise InputError(f"{printable(self.folder)}: no image in this folder or below it; looked for {known}")
        self.labels: Tensor | None = None
        self.class_names: list[str] | None = None
        if found.labels is not None and len(found.first) >= 2 and not SPLIT_FOLDERS.issuperset(found.first):
            self.labels, self.class_names = found.labels, [printable(name) for name in found.first]

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        # Workers read images; labels of millions are not sent to them.
        return self.__dict__ | ({"labels": None} if isinstance(self.files, Paths) else {})

    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(_stamp(os.path.join(self.folder, file)))  # noqa: PTH118 (Path would cost more than the stat)
        return f"{Path(self.folder).resolve()} {digest.hexdigest()}"

    def path(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])  # noqa: PTH118

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, uint8 ``[h, w, 3]``; raises ``UnreadableImage``."""
        return decode(self.path(index), bounds)


def _stamp(path: str) -> bytes:
    """Name, size and time of a file, none of the latter where it can't be asked."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return os.fsencode(path)
    return os.fsencode(f"{path} {status.st_size} {status.st_mtime_ns}\0")
