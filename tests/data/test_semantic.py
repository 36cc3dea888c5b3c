"""Pictures with a class for every pixel."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.labelled.scenes import ShapesScenes
from hardviews.data.labelled.semantic import MaskFolder, open_segmented, read_mask
from hardviews.errors import InputError


def picture(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P") if values.ndim == 3 else image
        image.putpalette([7, 7, 7] * 256)
    image.save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training pictures and a test picture, of classes 0, 1 and 3."""
    random = np.random.default_rng(0)
    for split, names in (("train", ("a", "deep/b")), ("val", ("c",))):
        for name in names:
            picture(tmp_path / split / "images" / f"{name}.jpg", random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            picture(tmp_path / split / "masks" / f"{name}.png", random.choice([0, 1, 3, 255], (6, 8)).astype(np.uint8))
    return tmp_path


def test_pictures_find_their_masks(root: Path) -> None:
    train, test = open_segmented(str(root))
    assert (len(train), len(test)) == (2, 1)
    assert train.classes == test.classes == ["0", "1", "2", "3"]
    deep = train.read(1)
    assert deep.image.shape == (6, 8, 3)
    assert np.array_equal(deep.mask.numpy(), np.array(Image.open(root / "train" / "masks" / "deep" / "b.png")))
    assert deep.mask.dtype == torch.int64


def test_classes_may_have_names(root: Path) -> None:
    (root / "classes.txt").write_text("sky\nsea\n\nland \n\n")  # a class without name is a class
    assert open_segmented(str(root))[0].classes == ["sky", "sea", "", "land"]
    (root / "classes.txt").write_text("sky\nsea\n")
    train, _ = open_segmented(str(root))
    with pytest.raises(InputError, match=r"a\.png: class 3 is not one of 2"):
        train.read(0)


def test_a_palettes_colours_mean_nothing_and_classes_may_be_many(tmp_path: Path) -> None:
    numbers = np.arange(48, dtype=np.uint8).reshape(6, 8)
    picture(tmp_path / "p.png", numbers, "P")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.array_equal(read_mask(tmp_path / "p.png").numpy(), numbers)
    picture(tmp_path / "i.png", numbers.astype(np.uint16) * 100)
    assert np.array_equal(read_mask(tmp_path / "i.png").numpy(), numbers.astype(int) * 100)
    picture(tmp_path / "b.png", numbers > 20)
    assert np.array_equal(read_mask(tmp_path / "b.png").numpy(), numbers > 20)


def test_errors_are_one_line(root: Path) -> None:
    def said() -> str:
        with pytest.raises(InputError) as caught:
            open_segmented(str(root))[0].read(0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    mask = root / "train" / "masks" / "a.png"
    good = mask.read_bytes()
    picture(mask, np.zeros((8, 6), dtype=np.uint8))
    assert "a.png: is 6x8, but its picture is 8x6" in said()
    picture(mask, np.zeros((6, 8, 3), dtype=np.uint8))
    assert "a.png: a mask has one channel of class numbers, not RGB" in said()
    mask.write_bytes(good[:40])
    assert "a.png: can't be read as a mask" in said()
    mask.unlink()
    os.mkfifo(mask)  # to open it would wait for ever
    with pytest.raises(InputError, match=r"a\.png: can't be read as a mask: not a file"):
        read_mask(mask)
    mask.unlink()
    assert "a.png: no such mask of a.jpg" in said()
    mask.write_bytes(good)
    (root / "train" / "images" / "a.jpg").write_bytes(b"no picture")
    assert "a.jpg" in said()
    (root / "classes.txt").write_text("\n")
    assert "classes.txt: is empty" in said()
    (root / "classes.txt").unlink()
    (root / "val").rename(root / "other")
    assert "val" in said()
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_segmented("nowhere")


def test_masks_of_shapes_are_the_objects_classes() -> None:
    train, test = open_segmented("shapes:10", 48)
    assert (len(train), len(test)) == (10, 2)
    assert train.classes[:3] == ["background", "disk", "ring"]
    scene, objects = train.read(4), ShapesScenes("train", 10, 48).read(4)
    assert objects.masks is not None
    covered = objects.masks.any(0)
    assert (scene.mask[covered] == 5).all()
    assert (scene.mask[~covered] == 0).all()
    assert 0 < covered.sum() < 48 * 48


def test_a_picture_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    """Its mask has classes there."""
    random = np.random.default_rng(0)
    picture(tmp_path / "train" / "images" / "a.jpg", random.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    picture(tmp_path / "train" / "masks" / "a.png", random.integers(0, 2, (96, 96), dtype=np.uint8))
    file = tmp_path / "train" / "images" / "a.jpg"
    whole = file.read_bytes()
    folder = MaskFolder(tmp_path, "train", ["a", "b"])
    file.write_bytes(whole[:-2])
    assert folder.read(0).image.shape == (96, 96, 3)
    file.write_bytes(whole[: -len(whole) // 20])
    with pytest.raises(InputError, match=r"a\.jpg: .*9. % can be shown"):
        folder.read(0)
