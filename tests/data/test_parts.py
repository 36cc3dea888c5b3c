"""Frames and tiles as images: every pixel is in a part, labels are those of the files, empty tiles are counted."""

import io
import logging
import pickle
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hardviews.data.loading.in_order import in_order
from hardviews.data.loading.loader import Loader
from hardviews.data.reading.decode import Bounds, Extent, UnreadableImage
from hardviews.data.sources import as_source, fingerprint, open_source, parts
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.parts import Parts
from hardviews.errors import InputError, RunError

STORED = Bounds(form=None)
Array = NDArray[Any]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two classes: a picture of 70x100, an array of 3 frames of 40x50 with 4 bands, one smaller than a tile."""
    for name in "ab":
        (tmp_path / name).mkdir()
    np.save(tmp_path / "a" / "0.npy", noise(70, 100, 4))
    np.save(tmp_path / "a" / "1.npy", noise(3, 40, 50, 4, seed=1))
    np.save(tmp_path / "b" / "2.npy", noise(20, 30, 4, seed=2))
    return tmp_path


def test_every_pixel_is_in_a_tile_and_borders_overlap(scenes: Path) -> None:
    source = open_source(str(scenes), tile=32, every_frame=True)
    assert isinstance(source, Parts)
    per_file = [3 * 4, 3 * 2 * 2, 1]
    assert len(source) == sum(per_file)
    assert source.labels is not None
    assert source.labels.tolist() == [0] * 24 + [1]
    assert source.class_names == ["a", "b"]
    arrays = [noise(1, 70, 100, 4), noise(3, 40, 50, 4, seed=1), noise(1, 20, 30, 4, seed=2)]
    seen = [np.zeros(array.shape[:3], bool) for array in arrays]
    for index in range(len(source)):
        file, (frame, at) = source.place(index)
        assert at is not None
        inside = (frame, slice(at.top, at.top + at.height), slice(at.left, at.left + at.width))
        assert np.array_equal(source.read(index, STORED).numpy(), arrays[file][inside])
        assert source.read(index, STORED).shape[:2] == ((20, 30) if file == 2 else (32, 32))
        seen[file][inside] = True
    assert all(places.all() for places in seen)
    assert source.path(0) == f"{scenes}/a/0.npy: y 0 x 0"
    assert source.path(11) == f"{scenes}/a/0.npy: y 38 x 68"  # 70 - 32 and 100 - 32
    assert source.path(23) == f"{scenes}/a/1.npy: frame 2 y 8 x 18"
    assert source.path(24) == f"{scenes}/b/2.npy"
    assert len({source.path(index) for index in range(len(source))}) == len(source)
    with pytest.raises(IndexError):
        source.place(len(source))
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.read(23, STORED), source.read(23, STORED))


def test_frames_without_tiles_and_what_is_left_out_is_said(scenes: Path) -> None:
    whole = Folder(scenes)
    assert len(whole) == 3
    assert whole.passed_over == "a/1.npy has 3 frames, of which the first is read (--frames all reads all)"
    frames = open_source(str(scenes), every_frame=True)
    assert len(frames) == 5
    assert frames.path(3) == f"{scenes}/a/1.npy: frame 2"
    assert np.array_equal(frames.read(3, STORED).numpy(), noise(3, 40, 50, 4, seed=1)[2])
    assert frames.passed_over == ""  # type: ignore[attr-defined]
    first = Parts(whole, 32)
    assert len(first) == 12 + 4 + 1
    assert "1 file has several frames, of which the first is read" in first.passed_over


def test_pictures_are_cut_too_and_bounds_hold(tmp_path: Path) -> None:
    picture = noise(60, 90, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    source = open_source(str(tmp_path), tile=30)
    assert len(source) == 6
    assert source.native_size == 30
    for index in range(6):
        row, column = divmod(index, 3)
        wanted = picture[30 * row : 30 * row + 30, 30 * column : 30 * column + 30]
        assert np.array_equal(source.read(index).numpy(), wanted)
    assert source.read(0, Bounds(10)).shape == (10, 10, 3)
    alone = open_source(str(tmp_path / "a.png"), tile=30)
    assert len(alone) == 6
    assert torch.equal(alone.read(5), source.read(5))


def test_a_turned_pictures_tiles_are_turned(tmp_path: Path) -> None:
    picture, exif = noise(60, 90, 3), Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    source = open_source(str(tmp_path), tile=30)
    assert np.array_equal(source.read(1).numpy(), np.rot90(picture[:30, 30:60], 3))


def test_members_of_a_tar_are_cut(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.npy", "1.npy"):
            content = io.BytesIO()
            np.save(content, noise(64, 32, 4, seed=int(name[0])))
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            content.seek(0)
            tar.addfile(member, content)
    source = open_source(str(tmp_path / "a.tar"), tile=32)
    assert len(source) == 4
    assert np.array_equal(source.read(3, STORED).numpy(), noise(64, 32, 4, seed=1)[32:])


def test_what_a_set_is_known_by(scenes: Path) -> None:
    known = [open_source(str(scenes), tile=tile, every_frame=every) for tile in (0, 32, 40) for every in (False, True)]
    assert len({source.identity() for source in known}) == len({fingerprint(source) for source in known}) == 6
    np.save(scenes / "b" / "2.npy", noise(40, 30, 4))
    assert open_source(str(scenes), tile=32).identity() not in {source.identity() for source in known}


def test_a_file_that_can_not_be_read_counts_as_one_part(scenes: Path) -> None:
    (scenes / "b" / "3.npy").write_bytes(b"\x93NUMPY damaged")
    source = open_source(str(scenes), tile=32)
    assert len(source) == 12 + 4 + 1 + 1
    with pytest.raises(UnreadableImage, match=r"3\.npy"):
        source.read(17)
    np.save(scenes / "a" / "0.npy", noise(40, 40, 4))  # smaller than when it was counted
    with pytest.raises(UnreadableImage, match="has no such part any more: 1 frames of 40x40 pixels"):
        source.read(11)


def test_a_header_that_lies_gives_one_part(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "extent_of", lambda _: Extent(10**30, 40, 40))
    source = open_source(str(scenes), tile=32, every_frame=True)
    assert len(source) == 3
    assert source.read(1, STORED).shape == (40, 50, 4)


def test_an_index_of_many_files_is_kept(scenes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    fresh = open_source(str(scenes), tile=32, every_frame=True)
    monkeypatch.setattr(parts, "MANY", 2)
    made = open_source(str(scenes), tile=32, every_frame=True)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "extent_of", None)  # not called again
        kept = open_source(str(scenes), tile=32, every_frame=True)
    assert isinstance(kept, Parts)
    assert fresh.identity() == made.identity() == kept.identity()
    assert [kept.path(index) for index in range(25)] == [fresh.path(index) for index in range(25)]
    np.save(scenes / "b" / "2.npy", noise(40, 30, 4))
    assert len(open_source(str(scenes), tile=32, every_frame=True)) == 26


def speckled(folder: Path, filled: int) -> Path:
    """A scene of 100 tiles, of which ``filled`` are not empty."""
    scene = np.zeros((320, 320, 3), np.uint8)
    for tile in range(filled):
        top, left = 32 * (tile * 37 % 100 // 10), 32 * (tile * 37 % 10)
        scene[top : top + 32, left : left + 32] = noise(32, 32, 3, seed=tile)
    folder.mkdir()
    np.save(folder / "a.npy", scene)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_empty_tiles_are_replaced_and_counted(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(speckled(tmp_path / "few", 8)), tile=32)
    loader = Loader(source, 20, seed=0, workers=workers, in_memory=False)
    steps = list(islice(loader.batches(), 5))
    drawn = {int(index) for batch in steps for index in batch.index}
    assert drawn == {tile * 37 % 100 for tile in range(8)}
    assert all(batch.image(k).float().std() > 30 for batch in steps for k in range(20))
    assert loader.empty == set(range(100)) - drawn
    assert loader.unreadable == {}
    assert [record.getMessage() for record in caplog.records] == [
        "few: 1 tile is empty so far, of 100; others take their place",
        "few: 10 tiles are empty so far, of 100; others take their place",
    ]
    again = list(islice(Loader(source, 20, seed=0, in_memory=False).batches(3), 2))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(steps[3:], again, strict=True))
    caplog.clear()
    left_out: dict[str, str] = {}
    assert sum(len(batch) for batch in in_order(source, 16, workers=workers, unreadable=left_out)) == 8
    assert set(left_out.values()) == {"empty: all its pixels are equal"}
    assert [record.getMessage() for record in caplog.records] == ["few: 92 tiles are empty and left out, of 100"]


def test_a_scene_of_nothing_ends_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    source = open_source(str(speckled(tmp_path / "none", 0)), tile=32)
    for in_memory in (False, "auto"):
        with pytest.raises(RunError, match="1000 tiles in a row are empty, among them"):
            next(Loader(source, 20, seed=0, in_memory=in_memory).batches())


def test_what_can_not_be_cut_is_one_line() -> None:
    with pytest.raises(InputError, match="tile: -1 must be 0 or more"):
        Parts(as_source([np.zeros((8, 8, 3), np.uint8)]), -1)
    for data in ("shapes:8",):
        with pytest.raises(InputError, match="--tile and --frames take images in files, tables or shards"):
            open_source(data, tile=8)
