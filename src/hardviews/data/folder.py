"""Any folder of images, nested or not, with or without class folders."""

import os
from pathlib import Path

import torch
from torch import Tensor

from hardviews.data.decode import UNBOUNDED, Bounds, decode, printable
from hardviews.errors import InputError

EXTENSIONS = (  # in lower and upper case
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
SPLIT_FOLDERS = {"train", "val", "valid", "validation", "test", "unlabeled"}


class Folder:
    """The images in a folder and its sub-folders, in the order of their paths.

    Hidden files and folders are left out; links are followed, but every folder is listed once, so loops end.

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
        self.files, entries = _images(self.folder)  # paths relative to the folder, sorted
        if not entries:
            raise InputError(f"{printable(self.folder)}: the folder is empty")
        if not self.files:
            known = " ".join(EXTENSIONS)
            raise InputError(f"{printable(self.folder)}: no image in this folder or below it; looked for {known}")
        self.labels: Tensor | None = None
        self.class_names: list[str] | None = None
        first = [file.split(os.sep, 1)[0] if os.sep in file else "" for file in self.files]
        names = sorted(set(first))
        if "" not in names and len(names) >= 2 and not SPLIT_FOLDERS.issuperset(names):
            number = {name: k for k, name in enumerate(names)}
            self.labels = torch.tensor([number[name] for name in first])
            self.class_names = [printable(name) for name in names]

    def __len__(self) -> int:
        return len(self.files)

    def identity(self) -> str:
        return f"{Path(self.folder).resolve()} " + " ".join(_stamp(self.path(index)) for index in range(len(self)))

    def path(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])  # noqa: PTH118 (Path would cost more than the file name)

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, uint8 ``[h, w, 3]``; raises ``UnreadableImage``."""
        return decode(self.path(index), bounds)


def _images(root: str) -> tuple[list[str], int]:
    """Paths of the images, relative to ``root``, and how many entries of any kind there are."""
    files: list[str] = []
    entries = 0
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        folder = os.path.join(root, below)  # noqa: PTH118
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                found = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{printable(folder)}: can't be listed: {error.strerror}") from None
        entries += len(found)
        folders: list[str] = []
        for entry in found:
            if entry.name.startswith("."):
                continue
            path = os.path.join(below, entry.name)  # noqa: PTH118
            if is_folder(entry):
                folders.append(path)
            # a name is enough: a link that leads nowhere is an image that can't be read, and is told as such
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                files.append(path)
        pending.extend(reversed(folders))
    return sorted(files), entries


def _stamp(path: str) -> str:
    """Name, size and time of a file, none of the latter where it can't be asked."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return path
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also where asking is an error: a link to itself is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
