"""Data sets of Hugging Face's library, all of them on this disk: content, labels, order, resume, errors of one line."""

import os
import pickle
from itertools import islice
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from hardviews.data.loading.loader import Loader
from hardviews.data.reading.decode import MOST_BYTES, UnreadableImage
from hardviews.data.sources import open_source
from hardviews.data.sources.hub import Hub, Name, hub_stream, parsed
from hardviews.errors import InputError, RunError
from tests.data.tars import png


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def made(first: int, last: int) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "text": datasets.Value("string")}
    )
    rows = [{"image": {"bytes": png(k), "path": None}, "label": k % 2, "text": f"t{k % 3}"} for k in range(first, last)]
    return datasets.Dataset.from_list(rows, features=features)


def colours(source: Hub) -> list[int]:
    return [int(source.read(k)[0, 0, 0]) for k in range(len(source))]


def test_saved_sets_and_their_splits(tmp_path: Path) -> None:
    made(0, 8).save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=made(0, 8), validation=made(8, 11)).save_to_disk(tmp_path / "both")
    for source in (open_source(f"hf:{tmp_path}/one"), open_source(f"hf:{tmp_path}/both")):
        assert isinstance(source, Hub)
        for opened in (source, pickle.loads(pickle.dumps(source))):
            assert colours(opened) == list(range(8))
        assert source.labels is not None
        assert source.labels.tolist() == [0, 1] * 4
        assert source.class_names == ["a", "b"]
        assert source.native_size == 8
    assert colours(Hub(f"hf:{tmp_path}/both", "test")) == [8, 9, 10]
    assert colours(Hub(f"hf:{tmp_path}/both:validation")) == [8, 9, 10]
    texts = Hub(f"hf:{tmp_path}/one", label_column="text")
    assert texts.class_names == ["t0", "t1", "t2"]
    with pytest.raises(InputError, match="no split none; it has train, validation"):
        Hub(f"hf:{tmp_path}/both:none")
    with pytest.raises(InputError, match="is one split; leave :test out"):
        Hub(f"hf:{tmp_path}/one:test")
    assert Hub(f"hf:{tmp_path}/one").identity() != Hub(f"hf:{tmp_path}/both").identity()


def test_folders_of_parquet_and_of_images(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    made(0, 6).to_parquet(str(tmp_path / "parquet" / "train-0.parquet"))
    made(6, 8).to_parquet(str(tmp_path / "parquet" / "test-0.parquet"))
    assert colours(Hub(f"hf:{tmp_path}/parquet")) == list(range(6))
    assert colours(Hub(f"hf:{tmp_path}/parquet:test")) == [6, 7]
    assert colours(Hub(f"hf:{tmp_path}/parquet/test-0.parquet")) == [6, 7]
    for k in range(6):
        path = tmp_path / "images" / "train" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    source = Hub(f"hf:{tmp_path}/images")
    assert sorted(colours(source)) == list(range(6))
    assert source.class_names == ["a", "b"]
    assert source.labels is not None
    assert [colour % 2 for colour in colours(source)] == source.labels.tolist()


def test_rows_without_an_image_are_unreadable_and_wrong_columns_are_told(tmp_path: Path) -> None:
    pictures = ({"bytes": png(1), "path": None}, None, {"bytes": b"none", "path": None})
    rows = [{"picture": picture, "label": -1} for picture in pictures]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "set")
    source = Hub(f"hf:{tmp_path}/set")
    assert source.labels is None
    for row, reason in ((1, "null"), (2, "not a picture")):
        with pytest.raises(UnreadableImage, match=reason):
            source.read(row)
    with pytest.raises(InputError, match="no image column 'label'; the columns are picture, label"):
        Hub(f"hf:{tmp_path}/set", image_column="label")
    with pytest.raises(InputError, match="no label column 'klass'"):
        Hub(f"hf:{tmp_path}/set", label_column="klass")


def test_rows_that_name_files(tmp_path: Path) -> None:
    """Rows can name any path: those outside of the set are left alone, and what is no file or too large."""
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "private.png").write_bytes(png(1))
    for name in ("fine.png", "large.png"):
        (root / name).write_bytes(png(3))
    os.truncate(root / "large.png", MOST_BYTES + 1)  # with a hole, which takes no room
    (root / "link.png").symlink_to(root / "fine.png")
    os.mkfifo(root / "pipe.png")  # to open it would wait for ever
    outside = "a file outside of the data set's folder"
    faults = {
        f"{root}/fine.png": "", f"{root}/link.png": "", f"{root}/pipe.png": "not a file",
        f"{root}/none.png": "No such file or directory", f"{root}/large.png": "256 MiB are more than 256",
        f"{tmp_path}/private.png": outside, f"{root}/../private.png": outside, "/dev/zero": outside,
        "http://host/a.png": "an address or a member of an archive, and no file",
        f"{root}/a\0.png": "embedded null byte",
    }  # fmt: skip
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": path} for path in faults]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    pq.write_table(rows.data.table, root / "train-0.parquet")  # the library would put the files' bytes in
    assert [image.fault for image in hub_stream(f"hf-stream:{root}", 10).read(0)] == list(faults.values())
    source = Hub(f"hf:{root}")
    for row, fault in enumerate(faults.values()):
        if fault and "MiB" not in fault:  # where Pillow opens a file, it does not take it into memory
            with pytest.raises(UnreadableImage, match=fault):
                source.read(row)
        else:
            assert int(source.read(row)[0, 0, 0]) == 3


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_gives_each_image_once_and_goes_on_where_it_was(tmp_path: Path, processes: int, workers: int) -> None:
    (tmp_path / "set").mkdir()
    for shard in range(4):
        made(shard * 6, shard * 6 + 6).to_parquet(str(tmp_path / "set" / f"train-{shard}.parquet"))
    source = hub_stream(f"hf-stream:{tmp_path}/set", 24)
    assert len(source.shards) == 4

    def steps(first: int, last: int) -> list[list[int]]:
        parts = [
            Loader(source, 4 // processes, 0, p, processes, workers, shuffle_bytes=400).batches(first)
            for p in range(processes)
        ]
        return [
            [int(batch.image(b)[0, 0, 0]) for part in parts for batch in [next(part)] for b in range(len(batch))]
            for _ in range(first, last)
        ]

    through = steps(0, 12)
    for epoch in (through[:6], through[6:]):
        assert sorted(k for step in epoch for k in step) == list(range(24))
    assert steps(4, 12) == through[4:]


def test_a_stream_of_a_saved_set_and_its_faults(tmp_path: Path) -> None:
    made(0, 8).save_to_disk(tmp_path / "saved", num_shards=2)
    source = hub_stream(f"hf-stream:{tmp_path}/saved", None)
    assert (len(source), len(source.shards)) == (8, 2)
    assert sorted(int(b.image(k)[0, 0, 0]) for b in islice(Loader(source, 8, 0).batches(), 1) for k in range(8)) == [
        *range(8)
    ]
    (tmp_path / "set").mkdir()
    made(0, 6).to_parquet(str(tmp_path / "set" / "train-0.parquet"))
    with pytest.raises(InputError, match="does not say how many images"):
        hub_stream(f"hf-stream:{tmp_path}/set", None)
    opened = hub_stream(f"hf-stream:{tmp_path}/set", 6)
    (tmp_path / "set" / "train-0.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(RunError, match="shard 0 of 1 can't be read") as caught:
        next(Loader(opened, 2, 0).batches())
    assert "\n" not in str(caught.value)


def test_names() -> None:
    assert parsed("user/name") == Name("user/name", None, None, None)
    assert parsed("name:test") == Name("name", None, None, "test")
    assert parsed("user/name/small@refs/pr/1:train[:10%]") == Name("user/name", "small", "refs/pr/1", "train[:10%]")
    with pytest.raises(InputError, match="no path, and no USER/NAME"):
        parsed("a/b/c/d")


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for data in ("hf:nobody/none-at-all", f"hf:{tmp_path}/none"):
        with pytest.raises(InputError) as caught:
            open_source(data)
        assert "\n" not in str(caught.value)
