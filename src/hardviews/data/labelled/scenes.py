"""Images with objects, for training and measuring object detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hardviews.data.labelled.coco import SPLITS, coco_tools, instances, quiet, read_coco
from hardviews.data.reading.decode import UnreadableImage, decode, printable
from hardviews.data.sources.opening import open_source
from hardviews.data.sources.shapes import COUNTS, SHAPES, Shapes, draw_scene
from hardviews.errors import InputError

SIZE = 128  # side of drawn scenes


@dataclass(frozen=True)
class Scene:
    """An image and the n objects on it.

    Args:
        image: uint8 ``[h, w, 3]``.
        boxes: float32 ``[n, 4]``: x0, y0, x1, y1 in pixels, of positive width and height.
        labels: int64 ``[n]``, 1..C: 0 is a detector's background.
        crowd: bool ``[n]``, regions of many objects, where detections are not penalised; none in training splits.
        id: of the image, in its annotations.
        masks: bool ``[n, h, w]``, if there are any.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    id: int
    masks: Tensor | None = None


class Scenes(Protocol):
    """N images with objects of C categories.

    Args:
        name: for messages.
        categories: names, of labels 1..C.
        category_ids: the ids of labels 1..C in the annotations.
        has_masks: whether all objects have masks.
        native_size: the shorter side of the images if they are used at their size; else None.
    """

    name: str
    categories: list[str]
    category_ids: list[int]
    has_masks: bool
    native_size: int | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> Scene:
        """Image ``index`` at full size; raises ``InputError``."""
        ...

    def truth(self) -> Any:
        """All objects to be found, as a ``pycocotools.coco.COCO``."""
        ...


def open_scenes(data: str, split: str = "train", size: int = SIZE) -> Scenes:
    """Opens images with objects.

    Args:
        data: a folder in COCO's layout, or ``shapes``, or ``shapes:N`` with N training and N / 5 test scenes. An
            existing folder takes precedence.
        split: ``train`` or ``test``.
        size: side of drawn scenes.

    Raises:
        InputError: there is no such data, or it is damaged.
    """
    if split not in SPLITS:
        raise InputError(f"scenes have no split {split!r}; known: {', '.join(SPLITS)}")
    if Path(data).expanduser().exists():
        return CocoScenes(Path(data).expanduser(), split)
    return ShapesScenes(split, drawn(data, split), size)


def drawn(data: str, split: str) -> int:
    """The number of scenes of the built-in set that a name stands for.

    Raises:
        InputError: another set's name, or no name.
    """
    if data.partition(":")[0].lower() != "shapes":
        raise InputError(f"{printable(data)}: no such folder; scenes are a folder, or shapes, or shapes:N")
    return len(open_source(data, split=split))


class CocoScenes:
    """COCO's layout: ``ROOT/annotations/instances_train2017.json`` and ``ROOT/train2017``, and ``val2017`` likewise.

    Other years, or none, work as well (``instances_train.json`` and ``train``). Lin et al., "Microsoft COCO", ECCV
    2014. Boxes without area are left out. Training also leaves out crowd regions, and images without any box left.

    Args:
        root: the folder.
        split: ``train``, or ``test``, which reads val.

    Raises:
        InputError: files are missing or damaged, or pycocotools is not installed.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        self.file = instances(root, split)
        name = self.file.stem.removeprefix("instances_")
        self.folder = next((place for place in (root / name, root / "images" / name) if place.is_dir()), root / name)
        self.name = printable(f"{root.resolve().name}/{name}")
        self.split = split
        self.native_size: int | None = None
        self.coco = read_coco(self.file)
        self.category_ids: list[int] = sorted(self.coco.cats)
        self.categories: list[str] = [str(self.coco.cats[number]["name"]) for number in self.category_ids]
        self._label = {number: label for label, number in enumerate(self.category_ids, 1)}
        self._objects: dict[int, list[dict[str, Any]]] = {number: self._usable(number) for number in self.coco.imgs}
        self.ids: list[int] = sorted(number for number, found in self._objects.items() if found or split != "train")
        if not self.ids:
            raise InputError(f"{printable(str(self.file))}: no picture has a box to train on")
        found = [annotation for number in self.ids for annotation in self._objects[number]]
        self.has_masks = bool(found) and all(annotation.get("segmentation") for annotation in found)
        self._check_images()

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> Path:
        return self.folder / str(self.coco.imgs[self.ids[index]]["file_name"])

    def read(self, index: int) -> Scene:
        number = self.ids[index]
        try:
            image = decode(self.path(index), least_shown=1.0)  # objects may lie in the missing part
        except UnreadableImage as error:
            raise InputError(str(error)) from error
        height, width = image.shape[:2]
        annotated = self.coco.imgs[number]
        if (annotated.get("height", height), annotated.get("width", width)) != (height, width):
            raise InputError(
                f"{printable(str(self.path(index)))}: is {width}x{height}, but its annotations are of "
                f"{annotated['width']}x{annotated['height']} pixels"
            )
        found = self._objects[number]
        boxes = torch.tensor([annotation["bbox"] for annotation in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Scene(
            image,
            boxes,
            torch.tensor([self._label[annotation["category_id"]] for annotation in found], dtype=torch.int64),
            torch.tensor([bool(annotation.get("iscrowd")) for annotation in found], dtype=torch.bool),
            number,
            self._masks(found, height, width) if self.has_masks else None,
        )

    def truth(self) -> Any:
        return self.coco

    def _masks(self, found: Sequence[dict[str, Any]], height: int, width: int) -> Tensor:
        masks = np.zeros((len(found), height, width), dtype=bool)
        for place, annotation in enumerate(found):
            try:
                masks[place] = self.coco.annToMask(annotation)
            except Exception as error:  # for a damaged polygon pycocotools raises anything, even a bare Exception
                raise self._damaged(f"annotation {annotation.get('id')} has no usable segmentation") from error
        return torch.from_numpy(masks)

    def _usable(self, number: int) -> list[dict[str, Any]]:
        """The objects of an image for training, or to be found."""
        found = []
        for annotation in self.coco.imgToAnns.get(number, []):
            try:
                x, y, width, height = map(float, annotation["bbox"])
                known = annotation["category_id"] in self._label
            except (KeyError, TypeError, ValueError) as error:
                raise self._damaged(f"annotation {annotation.get('id')} has no bbox or category") from error
            if not known:
                raise self._damaged(f"annotation {annotation.get('id')} is of an unknown category")
            crowd = bool(annotation.get("iscrowd"))
            # as float32, in which a sliver far from the origin may vanish
            if np.float32(x + width) > np.float32(x) and np.float32(y + height) > np.float32(y):
                found += [annotation] if self.split != "train" or not crowd else []
        return found

    def _check_images(self) -> None:
        """Checks that all images exist: now, and not after hours of training."""
        try:
            there = {entry.name for entry in self.folder.iterdir()}
        except OSError as error:
            raise InputError(f"{printable(str(self.folder))}: no such folder of images") from error
        # names with a folder in them are looked up one by one
        missing = [
            place for place in range(len(self))
            if self.path(place).name not in there and not self.path(place).exists()
        ]  # fmt: skip
        if missing:
            more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            raise InputError(f"{printable(str(self.path(missing[0])))}: no such image{more}")

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{printable(str(self.file))}: {what}")


class ShapesScenes:
    """Scenes of the built-in set. Boxes and masks cover the visible parts.

    All objects of one image have one category, so the set is easy: a demonstration, evidence of nothing.

    Args:
        split: ``train`` or ``test``; they share no scene.
        count: number of scenes.
        size: side in pixels.
        seed: another seed gives another set of the same kind.

    Raises:
        InputError: another split, or a count or size below one.
    """

    def __init__(self, split: str = "train", count: int | None = None, size: int = SIZE, seed: int = 0) -> None:
        Shapes(split, COUNTS.get(split) if count is None else count, size)  # checks the arguments
        self.count = COUNTS[split] if count is None else count
        self.split, self.size, self.seed = split, size, seed
        self.name = "shapes"
        self.categories = list(SHAPES)
        self.category_ids = list(range(1, len(SHAPES) + 1))
        self.has_masks = True
        self.native_size: int | None = size

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Scene:
        scene = draw_scene(index, split=self.split, seed=self.seed, size=self.size)
        masks = torch.from_numpy(scene.masks[scene.masks.any((1, 2))])  # an object may be hidden completely
        return Scene(
            torch.from_numpy(scene.image),
            extents(masks),
            torch.full((len(masks),), scene.label + 1),
            torch.zeros(len(masks), dtype=torch.bool),
            index,
            masks,
        )

    def truth(self) -> Any:
        coco_tools()
        from pycocotools import mask
        from pycocotools.coco import COCO

        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(self)):
            scene = self.read(index)
            assert scene.masks is not None
            images.append({"id": scene.id, "height": self.size, "width": self.size})
            for box, label, part in zip(scene.boxes, scene.labels, scene.masks, strict=True):
                x0, y0, x1, y1 = box.tolist()
                annotations.append({
                    "id": len(annotations) + 1, "image_id": scene.id, "category_id": int(label), "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(part.sum()),
                    "segmentation": mask.encode(np.asfortranarray(part.numpy().astype(np.uint8))),
                })  # fmt: skip
        coco = COCO()
        categories = [{"id": k, "name": name} for k, name in zip(self.category_ids, self.categories, strict=True)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
        with quiet():
            coco.createIndex()
        return coco


def extents(masks: Tensor) -> Tensor:
    """The boxes around masks ``[n, h, w]``, none of them empty: float32 ``[n, 4]``, right and lower edges exclusive."""
    if not len(masks):
        return torch.zeros(0, 4)
    columns, rows = masks.any(1).byte(), masks.any(2).byte()
    first = [columns.argmax(1), rows.argmax(1)]
    last = [side.shape[1] - side.flip(1).argmax(1) for side in (columns, rows)]
    return torch.stack(first + last, 1).float()
