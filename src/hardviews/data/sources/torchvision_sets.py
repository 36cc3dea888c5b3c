"""torchvision's data sets by name, from the folder in which torchvision keeps them."""

import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from hardviews.data.indexing.cache import alone
from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage, decode
from hardviews.data.reading.given import of_given
from hardviews.errors import InputError

# name: (torchvision's class, arguments of the training split or its parts, of the test split, side of the images if all
# are equal). Training splits are those of published transfer results, with the validation split included.
_Split = dict[str, Any]
_TRAIN_FLAG: tuple[_Split, _Split] = ({"train": True}, {"train": False})
_SPLIT: tuple[_Split, _Split] = ({"split": "train"}, {"split": "test"})
_BOTH: tuple[list[_Split], _Split] = ([{"split": "train"}, {"split": "val"}], {"split": "test"})
_TRAINVAL: tuple[_Split, _Split] = ({"split": "trainval"}, {"split": "test"})

NAMES: dict[str, tuple[str, tuple[_Split | list[_Split], _Split], int | None]] = {
    "cifar10": ("CIFAR10", _TRAIN_FLAG, 32),
    "cifar100": ("CIFAR100", _TRAIN_FLAG, 32),
    "mnist": ("MNIST", _TRAIN_FLAG, 28),
    "fashionmnist": ("FashionMNIST", _TRAIN_FLAG, 28),
    "svhn": ("SVHN", _SPLIT, 32),
    "stl10": ("STL10", _SPLIT, 96),  # the 5,000 labelled training images
    "stl10-unlabeled": ("STL10", ({"split": "train+unlabeled"}, {"split": "test"}), 96),  # 105,000, for pretraining
    "flowers102": ("Flowers102", _BOTH, None),
    "food101": ("Food101", _SPLIT, None),
    "dtd": ("DTD", _BOTH, None),
    "pets": ("OxfordIIITPet", _TRAINVAL, None),
    "oxfordiiitpet": ("OxfordIIITPet", _TRAINVAL, None),
    "aircraft": ("FGVCAircraft", _TRAINVAL, None),
    "fgvcaircraft": ("FGVCAircraft", _TRAINVAL, None),
    "cars": ("StanfordCars", _SPLIT, None),
    "stanfordcars": ("StanfordCars", _SPLIT, None),
    "gtsrb": ("GTSRB", _SPLIT, None),
}

# Sets whose accuracy is by custom the mean over classes (Kornblith et al., "Do Better ImageNet Models Transfer
# Better?", CVPR 2019, table 1).
MEAN_PER_CLASS = {"flowers102", "pets", "oxfordiiitpet", "aircraft", "fgvcaircraft"}


class TorchvisionSet:
    """One of ``NAMES``. Nothing is downloaded without ``download``.

    ``labels`` is None if some images have none (``stl10-unlabeled``); ``unlabelled`` then says so.

    Raises:
        InputError: its files are not under ``root``, or there is no such split.
    """

    def __init__(self, name: str, split: str, root: str | Path, download: bool = False) -> None:
        kind, (train, test), self.native_size = NAMES[name]
        if split not in ("train", "test"):
            raise InputError(f"{name}: no split {split!r}; known: train, test")
        # imported when needed: torchvision takes a second, and few runs need it
        datasets: Any = importlib.import_module("torchvision.datasets")
        chosen = train if split == "train" else test
        try:
            # One of several processes downloads; the others then find the files.
            with alone(Path(root) / name) if download else nullcontext():
                parts = [
                    getattr(datasets, kind)(root=str(root), download=download, **part)
                    for part in (chosen if isinstance(chosen, list) else [chosen])
                ]
            # Opened here: torchvision would ignore formats and bounds.
            self._files = None if self.native_size else [file for part in parts for file in _files(part)]
        except Exception as error:  # torchvision raises RuntimeError, FileNotFoundError and more, with several lines
            why = (str(error).splitlines() or [type(error).__name__])[0]
            why = why.replace("You can use download=True to download it", "--download true fetches it")
            raise InputError(f"{name}: torchvision finds no {kind} in {Path(root).resolve()} ({why})") from None
        self.name = name
        self.split, self.root = split, Path(root).resolve()
        self._set = parts[0] if len(parts) == 1 else ConcatDataset[Any](parts)
        labels = [_labels(part) for part in parts]
        known = [part for part in labels if part is not None]
        self.labels: Tensor | None = torch.cat(known) if len(known) == len(parts) else None
        self.unlabelled = "some of its images have none" if self.labels is None else ""
        self.class_names: list[str] | None = getattr(parts[0], "classes", None)

    def __len__(self) -> int:
        return len(self._set)

    def identity(self) -> str:
        return f"{self.name} {self.split} {self.root} {len(self)}"

    def path(self, index: int) -> str:
        return f"{self.name}/{self.split}/{index}"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]``; raises ``UnreadableImage``."""
        if self._files is not None:
            return decode(self._files[index], bounds, self.path(index))
        try:
            return of_given(self._set[index][0], bounds)
        except Exception as error:  # damaged files raise anything
            raise UnreadableImage(self.path(index), " ".join(str(error).split()) or type(error).__name__) from None


def _files(dataset: Any) -> list[str]:
    """The image files of a set that consists of files."""
    name = next(name for name in ("_image_files", "_images", "_samples") if hasattr(dataset, name))
    return [str(item[0] if isinstance(item, tuple) else item) for item in getattr(dataset, name)]


def _labels(dataset: Any) -> Tensor | None:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            labels = torch.as_tensor(getattr(dataset, attribute), dtype=torch.int64)
            return None if (labels < 0).any() else labels
    return torch.tensor([label for _, label in dataset._samples]) if hasattr(dataset, "_samples") else None
