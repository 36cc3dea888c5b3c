"""Pictures with objects: COCO's layout, the built-in set, and what is said of damaged files."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.labelled.scenes import CocoScenes, ShapesScenes, extents, open_scenes
from hardviews.data.loading.read_ahead import batches
from hardviews.data.sources.shapes import draw_scene
from hardviews.errors import InputError

PACK = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
needs_pack = pytest.mark.skipif(not PACK.exists(), reason=f"needs {PACK}")

CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]


def annotation(number: int, image: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    x, y, width, height = bbox
    polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    area = width * height
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": area, "iscrowd": 0,
        "segmentation": polygon,
    } | more  # fmt: skip


def crowd(number: int, image: int) -> dict[str, Any]:
    """A region of many: the left half of a picture 40 wide and 30 high, as runs down the columns."""
    runs = {"size": [30, 40], "counts": [0, 600, 600]}
    return annotation(number, image, 3, [0, 0, 20, 30], iscrowd=1, segmentation=runs)


ANNOTATIONS = [
    annotation(1, 7, 3, [2, 3, 10, 20]),
    annotation(2, 7, 90, [12.5, 0, 20, 8]),
    annotation(3, 7, 17, [5, 5, 0, 4]),  # of no width
    crowd(4, 7),
    crowd(5, 9),
]


def write(root: Path, split: str = "train2017", annotations: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    """Three pictures, 40 wide and 30 high: 9 has a crowd alone, 8 has nothing."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    images = [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} for number in (9, 7, 8)]
    for image in images:
        noise = np.random.default_rng(int(str(image["id"]))).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / split / str(image["file_name"]))
    content = {
        "images": images,
        "annotations": ANNOTATIONS if annotations is None else annotations,
        "categories": CATEGORIES,
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content | more))
    return root


def test_training_leaves_out_crowds_slivers_and_pictures_without_boxes(tmp_path: Path) -> None:
    scenes = CocoScenes(write(tmp_path), "train")
    assert scenes.ids == [7]
    scene = scenes.read(0)
    assert scene.image.shape == (30, 40, 3)
    assert scene.boxes.tolist() == [[2, 3, 12, 23], [12.5, 0, 32.5, 8]]
    assert not scene.crowd.any()
    assert scene.masks is not None
    assert scene.masks.shape == (2, 30, 40)
    assert scene.masks[0, 3:23, 2:12].all()
    assert scene.masks[0].sum() == 200


def test_the_test_split_has_every_picture_and_says_what_is_a_crowd(tmp_path: Path) -> None:
    scenes = CocoScenes(write(tmp_path, "val2017"), "test")
    assert scenes.ids == [7, 8, 9]
    seven, empty, crowded = (scenes.read(index) for index in range(3))
    assert seven.crowd.tolist() == [False, False, True]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks is not None
    assert empty.masks.shape == (0, 30, 40)
    assert crowded.crowd.tolist() == [True]
    assert crowded.masks is not None
    assert crowded.masks[0, :, :20].all()
    assert not crowded.masks[0, :, 20:].any()


def test_labels_run_from_one_and_lead_back_to_category_ids(tmp_path: Path) -> None:
    scenes = CocoScenes(write(tmp_path), "train")
    assert scenes.category_ids == [3, 17, 90]
    assert scenes.categories == ["car", "cat", "brush"]
    assert [scenes.category_ids[label - 1] for label in scenes.read(0).labels] == [3, 90]


def test_without_segmentation_there_are_no_masks(tmp_path: Path) -> None:
    bare = [{k: v for k, v in one.items() if k != "segmentation"} for one in ANNOTATIONS]
    scenes = CocoScenes(write(tmp_path, annotations=bare), "train")
    assert not scenes.has_masks
    assert scenes.read(0).masks is None
    # Of some objects masks are not enough to learn masks from.
    partly = CocoScenes(write(tmp_path, annotations=[ANNOTATIONS[0], bare[1]]), "train")
    assert not partly.has_masks


@pytest.mark.parametrize(("year", "images"), [("", "train"), ("2014", "train2014"), ("2014", "images/train2014")])
def test_other_years_and_places(year: str, images: str, tmp_path: Path) -> None:
    write(tmp_path, f"train{year}")
    (tmp_path / images).parent.mkdir(exist_ok=True)
    (tmp_path / f"train{year}").rename(tmp_path / images)
    assert open_scenes(str(tmp_path)).read(0).id == 7


def test_2017_is_taken_where_there_are_several_years(tmp_path: Path) -> None:
    for year in ("2014", "2017", "2018"):
        write(tmp_path, f"train{year}")
    assert CocoScenes(tmp_path, "train").folder.name == "train2017"


@needs_pack
def test_the_real_layout() -> None:
    train, test = (open_scenes(str(PACK), split) for split in ("train", "test"))
    assert isinstance(train, CocoScenes)
    assert isinstance(test, CocoScenes)
    assert (len(train), len(test)) == (25, 27)  # image 508 has no boxes
    assert len(train.categories) == 80
    assert train.category_ids[-1] == 90
    assert not train.has_masks
    scenes = [train.read(index) for index in range(len(train))]
    assert sum(len(scene.boxes) for scene in scenes) == 181
    assert sum(int(test.read(index).crowd.sum()) for index in range(len(test))) == 2
    written = json.loads(train.file.read_text())
    by_id = {scene.id: scene for scene in scenes}
    first = written["annotations"][0]
    scene = by_id[first["image_id"]]
    x, y, width, height = first["bbox"]
    torch.testing.assert_close(scene.boxes[0], torch.tensor([x, y, x + width, y + height]))
    assert train.category_ids[int(scene.labels[0]) - 1] == first["category_id"]


def read_all(root: Path, split: str) -> None:
    scenes = open_scenes(str(root), split)
    for index in range(len(scenes)):
        scenes.read(index)


def said(root: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        read_all(root, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_missing_or_damaged_is_named_in_one_line(tmp_path: Path) -> None:
    root = write(tmp_path / "good")
    assert "instances_val2017.json: no such file" in said(root, "test")
    assert "no split 'dev'" in said(root, "dev")
    file = root / "annotations" / "instances_train2017.json"
    for damage in ("{", "[]", "3", '{"images": 3}', json.dumps({"images": [], "annotations": [], "categories": []})):
        file.write_text(damage)
        assert str(file) in said(root)
    file.write_bytes(b"\xff\xfe\x00")
    assert str(file) in said(root)

    for wrong in ({"bbox": None}, {"bbox": [1, 2]}, {"bbox": "abcd"}, {"category_id": 5}, {"image_id": [1]}):
        write(root, annotations=[ANNOTATIONS[0] | wrong])
        assert str(file) in said(root)
    write(root, annotations=[ANNOTATIONS[0] | {"segmentation": [[1, 2, 3]]}])
    assert "annotation 1 has no usable segmentation" in said(root)
    write(root, annotations=[crowd(1, 7)])
    assert "no picture has a box" in said(root)

    write(root)
    (root / "train2017" / "7.png").write_bytes(b"no picture")
    assert "7.png" in said(root)
    Image.new("RGB", (20, 30)).save(root / "train2017" / "7.png")
    assert "is 20x30, but its annotations are of 40x30" in said(root)
    (root / "train2017" / "7.png").unlink()
    assert "7.png: no such image" in said(root)
    for rest in (root / "train2017").iterdir():
        rest.unlink()
    (root / "train2017").rmdir()
    assert "train2017: no such folder" in said(root)


def test_other_names_and_missing_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cifar10: no such folder" in said(Path("cifar10"))
    assert "shapes:many" in said(Path("shapes:many"))
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert said(tmp_path) == "detection needs pycocotools: pip install 'hardviews[evaluation]'"


def test_boxes_are_the_masks_extents() -> None:
    scenes = open_scenes("shapes:20", size=64)
    assert len(scenes) == 20
    assert len(open_scenes("shapes:20", "test")) == 4
    for index in range(len(scenes)):
        scene = scenes.read(index)
        drawn = draw_scene(index, size=64)
        assert np.array_equal(scene.image.numpy(), drawn.image)
        assert set(scene.labels.tolist()) == {drawn.label + 1}
        assert scene.masks is not None
        assert len(scene.masks) == len(scene.boxes) >= 1
        for box, mask in zip(scene.boxes.int().tolist(), scene.masks, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_hidden_objects_are_no_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardviews.data.labelled import scenes as module

    def hide(*arguments: Any, **keywords: Any) -> Any:
        scene = draw_scene(*arguments, **keywords)
        scene.masks[0] = False
        return scene

    monkeypatch.setattr(module, "draw_scene", hide)
    scene = ShapesScenes(count=1).read(0)
    assert scene.masks is not None
    assert len(scene.boxes) == len(scene.masks) == len(scene.labels) == len(draw_scene(0).masks) - 1
    assert extents(scene.masks[:0]).shape == (0, 4)


def test_the_splits_of_shapes_share_no_scene() -> None:
    train, test = ShapesScenes("train", 3), ShapesScenes("test", 3)
    assert not torch.equal(train.read(0).image, test.read(0).image)


def test_the_truth_of_shapes_is_what_is_read() -> None:
    scenes = ShapesScenes("test", 5, 48)
    truth = scenes.truth()
    for index in range(5):
        scene = scenes.read(index)
        found = truth.imgToAnns[scene.id]
        boxes = torch.tensor([one["bbox"] for one in found])
        boxes[:, 2:] += boxes[:, :2]
        assert torch.equal(boxes, scene.boxes)
        assert scene.masks is not None
        for one, mask in zip(found, scene.masks.numpy(), strict=True):
            assert np.array_equal(truth.annToMask(one).astype(bool), mask)
            assert one["area"] == mask.sum()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_in_order_and_an_error_comes_through(threads: int) -> None:
    order = [3, 1, 4, 1, 5, 9, 2]
    assert list(batches(lambda index: -index, order, 3, threads)) == [[-3, -1, -4], [-1, -5, -9], [-2]]
    assert list(batches(lambda index: index, [], 3, threads)) == []
    made = batches(lambda index: 1 // (index - 5), order, 3, threads)
    assert next(made) == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(made)
