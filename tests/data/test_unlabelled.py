"""Why data has no labels: the file, the row or the folder is named, and what to do."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hardviews.data.indexing import listing
from hardviews.data.sources import open_source, why_unlabelled
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Preprocessing
from tests.data.tars import png
from tests.data.test_shards import members


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


CLASSES = ("cat/1.png", "cat/2.png", "dog/1.png")
CASES = [
    (CLASSES, ""),
    (
        (*CLASSES, "logo.png"),
        "1 of its 4 images lies beside the class folders: ROOT/logo.png; move what lies there into one of them, or "
        "elsewhere",
    ),
    (
        (*CLASSES, *(f"{k}.png" for k in range(5))),
        "5 of its 8 images lie beside the class folders: ROOT/0.png, ROOT/1.png, ROOT/2.png and 2 more; move what lies "
        "there into one of them, or elsewhere",
    ),
    (("1.png", "2.png"), "its images lie in no folders, whose names would be the labels"),
    (
        ("cat/1.png", "cat/2.png"),
        "its images lie in one folder, cat, and labels are the names of two or more; if that one holds the class "
        "folders, give --data ROOT/cat",
    ),
    (
        ("cat/1.png", "2.png"),
        "its images lie in one folder, cat and beside it, and labels are the names of two or more; if that one holds "
        "the class folders, give --data ROOT/cat",
    ),
    (
        ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "logo.png"),
        "its folders train, val are splits; give --data ROOT/train --test-data ROOT/val",
    ),
    (
        ("Training/cat/1.png", "test/cat/1.png", "validation/cat/2.png"),
        "its folders Training, test, validation are splits; give --data ROOT/Training --test-data ROOT/validation",
    ),
    (("train/cat/1.png", "unlabeled/2.png"), "its folders train, unlabeled are splits; give --data ROOT/train"),
]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(("names", "why"), CASES)
def test_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], why: str, indexed: bool
) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    root = folder(tmp_path / "root", *names)
    if indexed:
        monkeypatch.setattr(listing, "PART", 1)
    source = Folder(root)
    assert isinstance(source.files, listing.Paths) == indexed
    assert source.unlabelled == why.replace("ROOT", str(root))
    assert (source.labels is None) == bool(why)


def test_a_path_is_quoted_for_the_shell(tmp_path: Path) -> None:
    root = folder(tmp_path / "my pictures", "train/cat/1.png", "val/cat/1.png")
    assert Folder(root).unlabelled.endswith(f"--data '{root}/train' --test-data '{root}/val'")


def test_tables(tmp_path: Path) -> None:
    columns = {"image": [png(k) for k in range(4)], "null": [1, None, 2, None], "negative": [0, 1, -1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    data = str(tmp_path / "t.parquet")
    assert why_unlabelled(open_source(data)) == (
        "it has no column 'label'; --label-column may name another of its columns, image, null, negative"
    )
    for column, rows in (("null", "2 of its 4 rows have no label (row 1 has null)"), ("negative", "(row 2 has -1)")):
        assert rows in why_unlabelled(open_source(data, label_column=column))


def test_shards(tmp_path: Path) -> None:
    files = [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(2)), ("b.cls", b"cat"), ("c.png", png(3))]
    path = members(tmp_path / "a.tar", files)
    some = open_source(str(path))
    assert some.labels is None
    assert why_unlabelled(some) == f"2 of its 3 images have no member .cls with a whole number, such as {path}/b.png"
    assert why_unlabelled(open_source(str(path), label_column="json")) == (
        "none of its images has a member .json with a whole number; --label-column names another extension"
    )


def test_who_needs_labels_is_told_why_there_are_none(tmp_path: Path) -> None:
    """Also of a part of the data, as that which is held out."""
    source = Folder(folder(tmp_path, *CLASSES, "logo.png"))
    part = Subset(source, torch.tensor([0, 1]))
    ready = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
    bench = Bench(torch.nn.Linear(1, 1), "x", lambda: (part, part), ready)
    with pytest.raises(InputError, match=r"has no labels, which this protocol needs: 1 of its 4 images .*logo\.png"):
        _ = bench.labels
