"""Test images that are training images too are found by content, at a bounded cost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardviews.data import overlap as comparing
from hardviews.data.overlap import Overlap, overlap
from hardviews.data.reading.decode import UNBOUNDED, Bounds, decode
from hardviews.data.sources import ImageSource, open_source
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.subset import Subset
from tests.data.test_shards import members


def pictures(folder: Path, first: int, last: int, name: str = "{}.png") -> Path:
    """Noise of the same size in bytes and pixels; that of a number is always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name.format(number), "BMP")
    return folder


def as_folder(folder: Path) -> ImageSource:
    return Folder(folder)


def as_table(folder: Path) -> ImageSource:
    content = [file.read_bytes() for file in sorted(folder.iterdir())]
    pq.write_table(pa.table({"image": content}), folder.with_suffix(".parquet"))
    return open_source(str(folder.with_suffix(".parquet")))


def as_shards(folder: Path) -> ImageSource:
    files = [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]
    return open_source(str(members(folder.with_suffix(".tar"), files)))


def as_hub(folder: Path) -> ImageSource:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": {"bytes": file.read_bytes(), "path": None}} for file in sorted(folder.iterdir())]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder.with_suffix(".hub"))
    return open_source(f"hf:{folder.with_suffix('.hub')}")


class Pixels:
    """A set of arrays, as CIFAR's is: of pictures in a folder."""

    def __init__(self, folder: Path) -> None:
        self.name = "pixels"
        self.labels: Tensor | None = None
        self.class_names: list[str] | None = None
        self.native_size: int | None = None
        self.pictures = [decode(file) for file in sorted(folder.iterdir())]

    def __len__(self) -> int:
        return len(self.pictures)

    def identity(self) -> str:
        return self.name

    def path(self, index: int) -> str:
        return str(index)

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        return self.pictures[index]


KINDS: list[Callable[[Path], ImageSource]] = [as_folder, as_table, as_shards, as_hub, Pixels]


@pytest.mark.parametrize("test_kind", KINDS)
@pytest.mark.parametrize("train_kind", KINDS)
def test_of_any_kind_and_whatever_the_files_are_called(
    tmp_path: Path, train_kind: Callable[[Path], ImageSource], test_kind: Callable[[Path], ImageSource]
) -> None:
    train = train_kind(pictures(tmp_path / "train", 0, 20))
    test = test_kind(pictures(tmp_path / "test", 17, 27, "other-{}.png"))
    apart = test_kind(pictures(tmp_path / "apart", 30, 40))
    assert overlap(train, test) == Overlap(3, 10, True)
    assert overlap(train, apart) == Overlap(0, 10, True)


def test_a_copied_folder_and_a_folder_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pictures(tmp_path / "train" / "all", 0, 9).parent
    shutil.copytree(train, tmp_path / "copy")
    (tmp_path / "link").symlink_to(train / "all")
    assert overlap(Folder(train), Folder(tmp_path / "copy")) == Overlap(9, 9, True)
    # By its path, whatever its size.
    monkeypatch.setattr(comparing, "_digests", None)
    for test in (train, train / "all", tmp_path / "link"):
        assert overlap(Folder(train), Folder(test)) == Overlap(9, 9, True)


def test_the_same_files_of_other_kinds_are_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "all", 0, 9)
    kinds = [as_table(folder), as_shards(folder)]
    monkeypatch.setattr(comparing, "_digests", None)
    for source in kinds:
        assert overlap(source, source) == Overlap(9, 9, True)


def test_unreadable_and_empty_images_are_none_of_the_same(tmp_path: Path) -> None:
    for name in ("train", "test"):
        pictures(tmp_path / name, *((0, 4) if name == "train" else (4, 8)))
        (tmp_path / name / "empty.png").touch()
        (tmp_path / name / "gone.png").symlink_to(tmp_path / "nowhere")
    assert overlap(Folder(tmp_path / "train"), Folder(tmp_path / "test")) == Overlap(0, 6, True)


def test_of_large_sets_a_part_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Folder(pictures(tmp_path / "train", 0, 60))
    test = Folder(pictures(tmp_path / "test", 0, 40))
    size = train.encoded_size(0)
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "TEST", 10)
        assert overlap(train, test) == Overlap(10, 10, False)
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "TRAINING", 30)
        found = overlap(train, test)
        assert 5 < found.shared < 35
        assert found[1:] == (40, False)
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "BYTES", 20 * size)
        found = overlap(train, test)
        assert 0 < found.shared <= 20
        assert found[1:] == (20, False)


def test_content_is_read_only_where_sizes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pictures(tmp_path / "train", 0, 8)
    test = pictures(tmp_path / "test", 0, 3)
    for number in range(3):  # another size
        Image.new("RGB", (20, 20 + number)).save(test / f"other-{number}.png", "BMP")
    read: list[str] = []
    encoded = Folder.encoded

    def noted(self: Folder, index: int) -> bytes:
        read.append(Path(self.path(index)).name)
        return encoded(self, index)

    monkeypatch.setattr(Folder, "encoded", noted)
    assert overlap(Folder(train), Folder(test)) == Overlap(3, 6, True)
    assert not any(name.startswith("other") for name in read)


def test_splits_of_the_built_in_set_share_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shapes, "read", None)  # nothing is drawn
    assert overlap(Shapes(), Shapes("test")) == Overlap(0, 1000, True)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_one_source_are_compared(
    tmp_path: Path, kind: Callable[[Path], ImageSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a held-out tenth is: images 2 and 3 are there again as 12 and 13."""
    pictures(tmp_path / "all", 0, 10, "{:02}.png")
    for number in (2, 3):
        shutil.copy(tmp_path / "all" / f"{number:02}.png", tmp_path / "all" / f"1{number}.png")
    source = kind(tmp_path / "all")
    rest, part = Subset(source, torch.arange(8)), Subset(source, torch.arange(8, 12))
    assert overlap(rest, part) == Overlap(2, 4, True)
    assert overlap(Subset(rest, torch.arange(3)), Subset(part, torch.arange(1, 4))) == Overlap(1, 3, True)
    if kind is as_folder:  # sizes alone tell these apart, so nothing is read
        pictures(tmp_path / "other", 20, 24)
        for file in (tmp_path / "other").iterdir():
            file.write_bytes(file.read_bytes() + bytes(100))
        monkeypatch.setattr(Folder, "encoded", None)
        assert overlap(rest, as_folder(tmp_path / "other")) == Overlap(0, 4, True)
