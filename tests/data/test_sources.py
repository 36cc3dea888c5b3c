"""Folders, tables, torchvision's sets, and how a path or a name becomes one of them."""

import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources import ImageSource, is_named, open_source, table
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.table import Table
from hardviews.errors import InputError

PACK = Path(__file__).parents[3] / "shared" / "data"


def picture(path: Path, value: int = 0, size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_nested_folder_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for k, name in enumerate(["b.png", "a/z.JPG", "a/deep/er/1.webp", "a/.hidden.png", ".git/x.png"]):
        picture(tmp_path / name, k)
    (tmp_path / "notes.txt").write_text("x")
    source = Folder(tmp_path)
    assert source.files == ["a/deep/er/1.webp", "a/z.JPG", "b.png"]
    assert source.labels is None
    assert source.read(2).shape == (3, 4, 3)
    assert source.path(2) == str(tmp_path / "b.png")


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ["dog/1.png", "cat/x/2.png", "cat/3.png"]:
        picture(tmp_path / name)
    source = Folder(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    picture(tmp_path / "stray.png")
    assert Folder(tmp_path).labels is None


def test_splits_and_a_single_folder_are_no_classes(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "1.png")
    assert Folder(tmp_path).labels is None
    picture(tmp_path / "val" / "1.png")
    assert Folder(tmp_path).labels is None
    picture(tmp_path / "cat" / "1.png")
    assert Folder(tmp_path).class_names == ["cat", "train", "val"]


def test_a_folder_of_small_pictures_has_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        picture(tmp_path / "small" / f"{index}.png", size=(32, 32))
    assert Folder(tmp_path / "small").native_size == 32
    (tmp_path / "small" / "4.png").write_bytes(b"not a picture")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", None)  # headers alone are read
        assert Folder(tmp_path / "small").native_size == 32
        picture(tmp_path / "small" / "2.png", size=(32, 31))
        assert Folder(tmp_path / "small").native_size is None
    for name, size in (("large", (97, 97)), ("oblong", (32, 30))):
        picture(tmp_path / name / "1.png", size=size)
        assert Folder(tmp_path / name).native_size is None
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").touch()
    assert Folder(tmp_path / "broken").native_size is None


def test_links_that_loop_end_and_dead_links_are_unreadable(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    source = Folder(tmp_path)
    assert source.files == ["a/1.png", "a/dead.png"]
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(1)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    try:
        with open(name, "wb") as file:  # noqa: PTH123 (a Path can't hold it)
            file.write(png(3))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = Folder(tmp_path)
    assert source.read(0)[0, 0, 0] == 3
    Path(os.fsdecode(name)).write_bytes(b"")
    with pytest.raises(UnreadableImage) as caught:
        source.read(0)
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such file or folder"),
        (lambda path: path.mkdir(), "the folder is empty"),
        (lambda path: (path.mkdir(), (path / "a.txt").touch()), "no image in this folder"),
        (lambda path: path.touch(), "not a folder"),
    ],
)
def test_bad_folders_are_one_line(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "x.y")
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path / "x.y"))
    assert "\n" not in str(caught.value)
    assert "x.y" in str(caught.value)


def test_unknown_name_gets_suggestions() -> None:
    with pytest.raises(InputError, match="did you mean cifar10"):
        open_source("cifra10")


def test_a_folder_that_lies_here_is_suggested_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"^phtos: no such file or folder; did you mean photos\?$"):
        open_source("phtos")


def test_an_existing_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_named("shapes")
    assert isinstance(open_source("shapes"), Shapes)
    picture(tmp_path / "shapes" / "1.png")
    assert not is_named("shapes")
    assert isinstance(open_source("shapes"), Folder)


def test_shapes_by_name_and_count() -> None:
    assert len(open_source("shapes")) == 5000
    assert len(open_source("shapes", split="test")) == 1000
    assert len(open_source("Shapes:200")) == 200
    assert len(open_source("shapes:200", split="test")) == 40
    assert is_named("shapes:200")
    with pytest.raises(InputError, match="give the number of images as shapes:5000"):
        open_source("shapes:many")


def write(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=rows)
    return path


@pytest.mark.parametrize("held", [True, False])
def test_hugging_face_layout_over_files_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    if not held:
        monkeypatch.setattr(table, "HELD_BYTES", 0)
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows: list[dict[str, object]] = [{"bytes": png(k), "path": f"{k}.png"} for k in range(7)]
    rows[3] = {"bytes": None, "path": "gone"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(info)}
    for k, part in enumerate((slice(0, 5), slice(5, 7))):
        image = pa.array([*rows[part], *([None] if k else [])], kind)
        labels = [j % 2 for j in range(len(image))]
        write(tmp_path / "set" / "data" / f"train-{k}.parquet", {"image": image, "label": labels}, metadata)
    write(tmp_path / "set" / "data" / "test-0.parquet", {"image": pa.array(rows[:1], kind), "label": [1]}, metadata)
    source = open_source(str(tmp_path / "set"))
    assert len(source) == 8
    assert len(open_source(str(tmp_path / "set"), split="test")) == 1
    assert source.class_names == ["a", "b"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    assert source.native_size == 4
    assert (tmp_path / "cache").exists() != held
    for opened in (source, pickle.loads(pickle.dumps(source))):  # as a spawned worker gets it
        assert [opened.read(k)[0, 0, 0].item() for k in (6, 5, 4, 2, 1, 0)] == [6, 5, 4, 2, 1, 0]
        for bad in (3, 7):
            with pytest.raises(UnreadableImage, match="null"):
                opened.read(bad)
    assert source.path(6).endswith("train-1.parquet:1")


def test_labels_of_a_table(tmp_path: Path) -> None:
    image = [png(k) for k in range(3)]
    path = write(
        tmp_path / "t.parquet", {"image": image, "label": ["b", "a", "b"], "other": [4, None, 2], "f": [0.5] * 3}
    )
    source = open_source(str(path))
    assert source.class_names == ["a", "b"]
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]
    assert open_source(str(path), label_column="other").labels is None  # one is null
    with pytest.raises(InputError, match="no label column 'lable'; the columns are image, label"):
        open_source(str(path), label_column="lable")
    with pytest.raises(InputError, match="double, not integers or strings"):
        open_source(str(path), label_column="f")


def test_image_column_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"img": [png(1)], "x": [1]})
    assert open_source(str(path)).read(0)[0, 0, 0] == 1  # the only one that holds images
    assert open_source(str(path)).labels is None
    with pytest.raises(InputError, match="column 'x' is int64, not encoded images"):
        open_source(str(path), image_column="x")
    with pytest.raises(InputError, match="no image column 'y'; the columns are img, x"):
        open_source(str(path), image_column="y")


def test_bad_tables_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="can't be read as Parquet") as caught:
        open_source(str(tmp_path / "t.parquet"))
    assert "\n" not in str(caught.value)
    write(tmp_path / "t.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(InputError, match="no rows"):
        open_source(str(tmp_path))


@pytest.mark.skipif(not PACK.exists(), reason=f"needs the image packs in {PACK}")
def test_cifar_pack_equals_pillow() -> None:
    path = PACK / "cifar10" / "cifar10-lossless-subset-test.parquet"
    source = open_source(str(path))
    rows = pq.read_table(path)
    assert isinstance(source, Table)
    assert source.native_size == 32
    assert source.class_names is not None
    assert source.class_names[0] == "airplane"
    assert source.labels is not None
    assert source.labels.tolist() == rows["label"].to_pylist()
    for k in [0, 1016, 300, 511, 512]:
        want = np.asarray(Image.open(BytesIO(rows["image"][k].as_py())).convert("RGB"))
        np.testing.assert_array_equal(source.read(k).numpy(), want)


def fake_cifar(root: Path, images: int = 4) -> None:
    """Batches of so many images each, as the official files hold them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data = random.integers(0, 256, (images, 3072), dtype=np.uint8)
        labels = [k, *(row % 10 for row in range(1, images))]
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))


def test_torchvisions_files_are_opened_as_all_others(tmp_path: Path) -> None:
    """Not by torchvision, which would hand a PostScript program to Ghostscript, and wait for a pipe."""
    dtd, gtsrb = tmp_path / "dtd" / "dtd", tmp_path / "gtsrb" / "GTSRB" / "Training"
    for split, names in (("train", ["a", "program"]), ("val", ["pipe"]), ("test", ["a"])):
        file = dtd / "labels" / f"{split}1.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"banded/{name}.jpg\n" for name in names))
    picture(dtd / "images" / "banded" / "a.jpg", 200, (40, 20))
    picture(gtsrb / "00007" / "a.ppm", 200)
    Image.new("RGB", (8, 8)).save(dtd / "images" / "banded" / "program.jpg", "EPS")
    os.mkfifo(dtd / "images" / "banded" / "pipe.jpg")
    source = open_source("dtd", root=tmp_path)
    assert source.read(0, Bounds(10)).shape == (10, 20, 3)
    for index, reason in ((1, "not a picture of a known format"), (2, "not a file")):
        with pytest.raises(UnreadableImage, match=f"dtd/train/{index}: {reason}"):
            source.read(index)
    assert open_source("gtsrb", root=tmp_path).read(0).shape == (3, 4, 3)


def test_a_pickle_of_others_is_not_read(tmp_path: Path) -> None:
    """CIFAR's files are pickles: torchvision reads those alone whose sums it knows."""

    class Program:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    fake_cifar(tmp_path)
    hundred = tmp_path / "cifar-100-python"
    hundred.mkdir()
    files = [*(tmp_path / "cifar-10-batches-py").iterdir(), *(hundred / name for name in ("train", "test", "meta"))]
    for file in files:
        file.write_bytes(pickle.dumps(Program()))
    for data in ("cifar10", "cifar100"):
        for split in ("train", "test"):
            with pytest.raises(InputError, match="not found or corrupted"):
                open_source(data, root=tmp_path, split=split)
    assert not (tmp_path / "ran").exists()


def test_of_several_processes_one_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for them: a lock of a file knows no difference."""
    from torchvision.datasets import CIFAR10

    made: list[str] = []

    def download(root: str, download: bool, train: bool) -> CIFAR10:
        made.append("begun")
        time.sleep(0.2)  # in which another would begin
        made.append("done")
        return CIFAR10(root, train)

    fake_cifar(tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    with ThreadPoolExecutor(3) as pool:
        opened = [pool.submit(open_source, "cifar10", root=tmp_path, download=True) for _ in range(3)]
    assert [len(one.result()) for one in opened] == [20] * 3
    assert made == ["begun", "done"] * 3


def test_cifar10_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    fake_cifar(tmp_path)
    with pytest.raises(InputError, match=f"cifar10: torchvision finds no CIFAR10 in {tmp_path}") as caught:
        open_source("cifar10", root=tmp_path)  # not the official files
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    source: ImageSource = open_source("CIFAR10", root=tmp_path)
    assert (len(source), len(open_source("cifar10", root=tmp_path, split="test"))) == (20, 4)
    assert source.native_size == 32
    assert source.labels is not None
    assert source.labels[:5].tolist() == [0, 1, 2, 3, 1]
    first = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_1").read_bytes())["data"][0]
    assert torch.equal(source.read(0).permute(2, 0, 1).flatten(), torch.from_numpy(first))
    assert source.read(0, Bounds(16)).shape == (16, 16, 3)
