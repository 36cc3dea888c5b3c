"""Images with a class for every pixel, for training and measuring semantic segmentation.

A folder has this layout. A mask has the name of its image with another ending::

    ROOT/train/images/NAME.jpg    ROOT/train/masks/NAME.png
    ROOT/val/images/NAME.jpg      ROOT/val/masks/NAME.png
    ROOT/classes.txt              names of classes 0, 1, ..., one per line; may be absent

``images`` and ``masks`` may contain the same sub-folders; ``test`` may take the place of ``val``. A mask holds class
numbers in one channel (grey, or a palette whose colours are ignored) and is as large as its image; 255 is ignored.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hardviews.data.labelled.scenes import SIZE, ShapesScenes, drawn
from hardviews.data.reading.decode import UnreadableImage, decode, opened, printable
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shapes import SHAPES
from hardviews.errors import InputError

IGNORED = 255
FOLDERS = {"train": ("train",), "test": ("val", "test")}
CHANNELS = ("1", "L", "P", "I", "I;16")  # Pillow's modes of one channel


@dataclass(frozen=True)
class Segmented:
    """An image and the class of every pixel.

    Args:
        image: uint8 ``[h, w, 3]``.
        mask: int64 ``[h, w]``, 0..C - 1, or 255 for ignored pixels.
    """

    image: Tensor
    mask: Tensor


class SegmentedScenes(Protocol):
    """N images with a class for every pixel.

    Args:
        name: for messages.
        classes: names of classes 0..C - 1.
        native_size: the shorter side of the images if they are used at their size; else None.
    """

    name: str
    classes: list[str]
    native_size: int | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> Segmented:
        """Image ``index`` at full size; raises ``InputError``."""
        ...


def open_segmented(data: str, size: int = SIZE, threads: int = 1) -> tuple[SegmentedScenes, SegmentedScenes]:
    """Opens training and test images with the same classes.

    Args:
        data: a folder, or ``shapes``, or ``shapes:N`` with N training and N / 5 test scenes.
        size: side of drawn scenes.
        threads: number that read all masks if no ``classes.txt`` names the classes.

    Raises:
        InputError: there is no such data, or it is damaged.
    """
    root = Path(data).expanduser()
    if not root.exists():
        train, test = (ShapesMasks(ShapesScenes(split, drawn(data, split), size)) for split in ("train", "test"))
        return train, test
    classes = class_names(root)
    folders = [MaskFolder(root, split, classes or []) for split in ("train", "test")]
    if classes is None:
        # The number of classes gives nothing of the test set away: a class in it alone can't be learned anyway.
        most = max(folder.highest_class(threads) for folder in folders)
        for folder in folders:
            folder.classes = [str(number) for number in range(most + 1)]
    return folders[0], folders[1]


def class_names(root: Path) -> list[str] | None:
    """The lines of ``classes.txt``, or None if there is no such file."""
    file = root / "classes.txt"
    try:
        names = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(str(file))}: can't be read as class names, one per line") from error
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise InputError(f"{printable(str(file))}: is empty")
    return [name.strip() for name in names]


class MaskFolder:
    """A split of a folder of images and masks, in the layout at the top of this file.

    Args:
        root: the folder.
        split: ``train``, or ``test``, which reads val.
        classes: names of classes 0..C - 1.

    Raises:
        InputError: a folder is missing or empty, or an image has no mask.
    """

    def __init__(self, root: Path, split: str, classes: list[str]) -> None:
        self.folder = next((root / name for name in FOLDERS[split] if (root / name).is_dir()), root / FOLDERS[split][0])
        self.name = printable(f"{root.resolve().name}/{self.folder.name}")
        self.classes = classes
        self.native_size: int | None = None
        self.images = Folder(self.folder / "images")
        known: dict[str, Path] = {}
        for mask in sorted((self.folder / "masks").rglob("*.png")):
            known[str(mask.relative_to(self.folder / "masks").with_suffix(""))] = mask
        self.masks: list[Path] = []
        for name in self.images.files:
            mask_file = known.get(str(Path(name).with_suffix("")))
            if mask_file is None:
                missing = self.folder / "masks" / Path(name).with_suffix(".png")
                raise InputError(f"{printable(str(missing))}: no such mask of {printable(name)}")
            self.masks.append(mask_file)

    def __len__(self) -> int:
        return len(self.masks)

    def read(self, index: int) -> Segmented:
        try:
            image = decode(self.images.path(index), least_shown=1.0)  # its mask covers all of it
        except UnreadableImage as error:
            raise InputError(str(error)) from error
        mask = read_mask(self.masks[index])
        name = printable(str(self.masks[index]))
        if mask.shape != image.shape[:2]:
            (height, width), (rows, columns) = mask.shape, image.shape[:2]
            raise InputError(f"{name}: is {width}x{height}, but its picture is {columns}x{rows}")
        wrong = mask[(mask != IGNORED) & ((mask >= len(self.classes)) | (mask < 0))]
        if len(wrong):
            raise InputError(f"{name}: class {int(wrong[0])} is not one of {len(self.classes)}; {IGNORED} is ignored")
        return Segmented(image, mask)

    def highest_class(self, threads: int) -> int:
        """The highest class in all masks, which are all read."""

        def highest(file: Path) -> int:
            mask = read_mask(file)
            return int(torch.where(mask == IGNORED, 0, mask).max())

        with ThreadPoolExecutor(max(1, threads)) as pool:
            return max(pool.map(highest, self.masks))


def read_mask(file: Path) -> Tensor:
    """Class numbers, int64 ``[h, w]``. For a palette these are the indices, not the colours.

    Raises:
        InputError: the mask can't be read, or has more than one channel.
    """
    name = printable(str(file))
    try:
        with opened(file, name) as image:
            mode = image.mode
            numbers = np.array(image) if mode in CHANNELS else None
    except UnreadableImage as error:
        raise InputError(f"{name}: can't be read as a mask: {error.reason}") from error
    except Exception as error:  # damaged files make Pillow's decoders raise anything
        raise InputError(f"{name}: can't be read as a mask") from error
    if numbers is None:
        raise InputError(f"{name}: a mask has one channel of class numbers, not {mode}")
    return torch.from_numpy(numbers.astype(np.int64))


class ShapesMasks:
    """Scenes of the built-in set: class 0 is the background, and the shapes follow.

    Args:
        scenes: have masks of objects.
    """

    def __init__(self, scenes: ShapesScenes) -> None:
        self.scenes = scenes
        self.name, self.native_size = scenes.name, scenes.native_size
        self.classes = ["background", *SHAPES]

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> Segmented:
        scene = self.scenes.read(index)
        assert scene.masks is not None
        mask = torch.zeros(scene.image.shape[:2], dtype=torch.int64)
        for label, part in zip(scene.labels, scene.masks, strict=True):
            mask[part] = label  # visible parts don't overlap
        return Segmented(scene.image, mask)
