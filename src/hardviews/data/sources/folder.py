"""Any folder of images, nested or not, with or without class folders."""

import hashlib
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from hardviews.data.indexing.listing import Listing, Paths, listing
from hardviews.data.reading.decode import (
    UNBOUNDED,
    Bounds,
    UnreadableImage,
    common_side,
    decode,
    encoded,
    extent_of,
    printable,
    size_of,
)
from hardviews.data.reading.extensions import EXTENSIONS, WITH_FRAMES, in_words, known_as, readable
from hardviews.errors import InputError
from hardviews.wording import several

TRAINING = ("train", "training")
TEST = ("val", "valid", "validation", "test", "testing")  # the first that exists is suggested for testing
SPLIT_FOLDERS = {*TRAINING, *TEST, "unlabeled"}  # in any case


class Folder:
    """The images in a folder and its sub-folders, in the order of their paths.

    Hidden files and folders are left out. Links are followed, and every folder is listed once, so loops end. The paths
    of many images are an index on disk (``listing.py``); a copy sent to another process then has no labels.

    ``labels`` are the first-level folders if every image lies in one and there are at least two, unless all have names
    of splits (``train``, ``val``, ...). Else ``unlabelled`` says why there are none and what to do. ``native_size``
    comes from the headers of the first, middle and last image.

    Raises:
        InputError: missing, no folder, can't be listed, or no image in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        if not Path(folder).exists():
            raise InputError(f"{printable(self.folder)}: no such folder")
        if not Path(folder).is_dir():
            raise InputError(f"{printable(self.folder)}: not a folder")
        self.name = printable(Path(self.folder).resolve().name)
        found = listing(self.folder)
        self.passed_files = self.passed_over = in_words(found.passed)
        self.files = found.files  # paths relative to the folder, sorted
        if not found.entries:
            raise InputError(f"{printable(self.folder)}: the folder is empty")
        if not self.files:
            known = " ".join((*EXTENSIONS, *sorted(readable().difference(EXTENSIONS))))
            more = f"; {self.passed_over}" if self.passed_over else ""
            raise InputError(f"{printable(self.folder)}: no image in this folder or below it; looked for {known}{more}")
        self.labels: Tensor | None = None
        self.class_names: list[str] | None = None
        self.unlabelled = _unlabelled(Path(self.folder), found)
        if not self.unlabelled:
            self.labels, self.class_names = found.labels, [printable(name) for name in found.first]
        self.native_size = common_side(lambda index: size_of(self.path(index)), len(self))
        self.passed_over = "; ".join(filter(None, (self.passed_files, self._further_frames())))

    @classmethod
    def of_file(cls, file: Path) -> "Folder":
        """One file alone."""
        found = cls.__new__(cls)
        found.folder, found.name, found.files = str(file.parent), printable(file.name), [file.name]
        found.labels, found.class_names, found.unlabelled = None, None, "it is one file, in no class folder"
        found.passed_files, found.passed_over, found.native_size = "", "", None
        return found

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        # Workers read images; labels of millions are not sent to them.
        return self.__dict__ | ({"labels": None} if isinstance(self.files, Paths) else {})

    def _further_frames(self) -> str:
        """That files have frames that are not read, if one of three does; only some formats have any."""
        for index in sorted({0, len(self) // 2, len(self) - 1}):
            with suppress(UnreadableImage):
                path = self.path(index)
                if known_as(path).lower().endswith(WITH_FRAMES) and (found := extent_of(path).frames) > 1:
                    file = printable(self.files[index])
                    return f"{file} has {found:,} frames, of which the first is read (--frames all reads all)"
        return ""

    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(_stamp(os.path.join(self.folder, file)))  # noqa: PTH118 (Path would cost more than the stat)
        return f"{Path(self.folder).resolve()} {digest.hexdigest()}"

    def path(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])  # noqa: PTH118

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        return decode(self.path(index), bounds)

    def encoded(self, index: int) -> bytes:
        """The bytes of the file of image ``index``; raises ``UnreadableImage``."""
        return encoded(self.path(index))

    def encoded_size(self, index: int) -> int:
        """The size of that file in bytes, 0 if it is unknown."""
        try:
            return os.stat(self.path(index)).st_size  # noqa: PTH116
        except OSError:
            return 0


def _unlabelled(root: Path, found: Listing) -> str:
    """Why the folders of a listing are no classes and what to do; empty if they are classes."""

    def option(name: str) -> str:
        return shlex.quote(printable(str(root / name)))

    folders = [name for name in found.first if name]
    splits = {name.lower(): name for name in folders}
    if not folders:
        return "its images lie in no folders, whose names would be the labels"
    if len(folders) > 1 and SPLIT_FOLDERS.issuperset(splits):
        train, test = (next((splits[name] for name in names if name in splits), None) for names in (TRAINING, TEST))
        advice = f"--data {option(train or test or folders[0])}"
        advice += f" --test-data {option(test)}" if train and test else ""
        return f"its folders {', '.join(map(printable, folders))} are splits; give {advice}"
    if len(folders) == 1:
        where = f"{printable(folders[0])}{' and beside it' if found.loose else ''}"
        return (
            f"its images lie in one folder, {where}, and labels are the names of two or more; if that one holds the "
            f"class folders, give --data {option(folders[0])}"
        )
    if found.loose:
        names = ", ".join(printable(str(root / name)) for name in found.named)
        more = f" and {found.loose - len(found.named):,} more" if found.loose > len(found.named) else ""
        lie = f"{found.loose:,} of its {several(len(found.files), 'image')} {'lies' if found.loose == 1 else 'lie'}"
        return f"{lie} beside the class folders: {names}{more}; move what lies there into one of them, or elsewhere"
    return ""


def _stamp(path: str) -> bytes:
    """Name, size and time of a file; the name alone if the file can't be reached."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return os.fsencode(path)
    return os.fsencode(f"{path} {status.st_size} {status.st_mtime_ns}\0")
