"""The index of a folder of many images: the very list of a small one, built once, believed as long as it is true."""

import json
import logging
import os
import pickle
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from hardviews.data.indexing import index, listing
from hardviews.data.loading.loader import Loader
from hardviews.data.sources.folder import Folder

NAMES = [
    "x/1.png", "x/10.png", "x/2.png", "x-y/a.png", "x.d/deep/er/1.JPG", "x.d/z.webp", "x y/1.png", "é/ü.png",
    "\N{GRINNING FACE}/1.png", "\ue000/1.png", "x/new\nline.png",
]  # fmt: skip


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is indexed though it is small, parts of three paths at a time; nothing in it has just changed."""
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "PART", 3)
    root = tmp_path / "many"
    for k, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(path, "PNG")
    (root / "x" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "x")  # sorts before x, and so has its images
    (root / "x" / ".hidden.png").touch()
    (root / "x" / "notes.txt").touch()
    with suppress(OSError):  # some file systems take UTF-8 names only
        (root / "x" / os.fsdecode(b"\xff\xfe.png")).touch()
    settle(root)
    return root


def settle(root: Path) -> None:
    """As if every folder had changed long ago, each at a time of its own."""
    for number, (folder, _, _) in enumerate(os.walk(root)):
        os.utime(folder, (0, os.stat(folder).st_mtime - 1000 - number))  # noqa: PTH116


def plain(root: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    with monkeypatch.context() as patch:
        patch.setattr(listing, "PART", 10**6)
        patch.setenv("HARDVIEWS_CACHE", str(root / ".." / "none"))
        return Folder(root)


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("index/*.folder"))


def test_an_index_is_the_list_of_the_same_folder(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plain(many, monkeypatch)
    assert isinstance(expected.files, list)
    assert expected.files == sorted(expected.files)
    assert expected.labels is not None
    for _ in ("built", "mapped"):
        source = Folder(many)
        assert isinstance(source.files, listing.Paths)
        assert list(source.files) == source.files[:] == expected.files
        assert source.files[-1] == expected.files[-1]
        assert source.labels is not None
        assert source.labels.tolist() == expected.labels.tolist()
        assert source.labels.dtype == torch.int64
        assert source.class_names == expected.class_names
        assert source.identity() == expected.identity()
        assert source.native_size == expected.native_size == 8
        assert all(torch.equal(source.read(k), expected.read(k)) for k in range(3))
    with pytest.raises(IndexError):
        source.files[len(source)]
    assert len(files(tmp_path / "cache")) == 1


def test_without_class_folders_there_are_no_labels(many: Path) -> None:
    Image.new("RGB", (8, 8)).save(many / "stray.png")
    settle(many)
    assert Folder(many).labels is None
    assert Folder(many).labels is None


def test_an_index_is_built_once_and_again_when_the_folder_changed(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(Folder(many).files)

    def walked(root: str) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(listing, "_Walk", walked)
        assert list(Folder(many).files) == before
        (many / "x.d" / "deep" / "er" / "1.JPG").write_bytes(b"other content, the same name")
        assert list(Folder(many).files) == before
    added = many / "x.d" / "deep" / "er" / "2.png"
    added.touch()
    assert sorted([*before, "x.d/deep/er/2.png"]) == list(Folder(many).files)
    added.rename(many / "x.d" / "3.png")
    assert sorted([*before, "x.d/3.png"]) == list(Folder(many).files)
    (many / "x.d" / "3.png").unlink()
    assert list(Folder(many).files) == before


def as_version_0_1_0() -> bytes:
    """An index of the format before Arrow: its arrays (here none), a JSON text, and its length, checksum and magic."""
    meta = {"format": 2, "first": ["x"], "entries": 1, "stamp": "", "passed": {}, "loose": 0, "named": []}
    described = json.dumps([meta, {name: ["<i8", 0, 0] for name in ("start", "label", "path", "folder")}]).encode()
    return described + struct.pack("<QI8s", len(described), zlib.crc32(described), b"HVARRAY1")


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "other", "version 0.1.0"])
def test_an_index_that_is_damaged_or_old_is_built_again(many: Path, tmp_path: Path, harm: str) -> None:
    before = list(Folder(many).files)
    (file,) = files(tmp_path / "cache")
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(
        {
            "cut": data[:middle],
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
            "other": b"x" * 1000,
            "version 0.1.0": as_version_0_1_0(),
        }[harm]
    )
    assert index.read(file) is None
    assert list(Folder(many).files) == before
    assert index.read(file) is not None


def test_the_index_of_a_folder_that_has_just_changed_is_not_kept(many: Path, tmp_path: Path) -> None:
    """Its time may be that of a change that comes after the listing, too."""
    (many / "x" / "new.png").touch()
    assert "x/new.png" in list(Folder(many).files) or "again/new.png" in list(Folder(many).files)
    assert not files(tmp_path / "cache")


def test_a_cache_that_cant_be_written_is_said_and_stops_nothing(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        source = Folder(many)
    assert list(source.files) == plain(many, monkeypatch).files
    (line,) = [record.message for record in caplog.records if "can't be written" in record.message]
    assert "\n" not in line


def test_a_worker_maps_the_index_and_is_sent_none_of_it(many: Path) -> None:
    source = Folder(many)
    sent = pickle.dumps(source)
    assert b"deep" not in sent
    copy = pickle.loads(sent)
    assert list(copy.files) == list(source.files)
    assert copy.labels is None
    batches = [next(Loader(source, 6, seed=0, workers=workers, tolerance=1.0).batches()) for workers in (0, 2)]
    assert torch.equal(batches[0].index, batches[1].index)
    assert torch.equal(batches[0].pixels, batches[1].pixels)


def test_a_folder_that_became_small_is_a_list_again(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(many)
    monkeypatch.setattr(listing, "PART", 100)
    (many / "x y" / "1.png").unlink()
    assert isinstance(Folder(many).files, list)
