"""Which files are taken for pictures; those that are passed over are counted, by what they are."""

import io
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardviews.data.indexing import listing
from hardviews.data.indexing.index import read, record_batch, write
from hardviews.data.loading.loader import steps_per_epoch
from hardviews.data.reading import extensions
from hardviews.data.reading.extensions import EXTENSIONS, in_words, is_array, is_image, passed_over
from hardviews.data.reading.formats import table
from hardviews.data.sources import open_source, shards
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shards import Shards
from hardviews.data.sources.streams import tar_stream
from hardviews.errors import InputError

# What the pictures in a folder may be called, and what is said of the others.
MANY = {".jpg": 4, ".avif": 3, ".jp2": 2, ".mpo": 1, ".TIF": 1, ".heic": 5, ".DNG": 2, ".npy": 1, ".txt": 9, "": 2}
SAID = (
    "11 files are passed over: 5 .heic (pip install 'hardviews[heic]' reads them) and 2 .dng (not read as pictures: "
    "convert or unpack them to JPEG or PNG) and 3 hidden (the name begins with a dot) and 1 .npy or .npz beside "
    "pictures (read where there are 10 of them to a picture, or no picture)"
)


@pytest.fixture(autouse=True)
def _without_extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has none of the libraries that extras bring."""
    monkeypatch.setattr(extensions, "installed", lambda module: not module)
    monkeypatch.setattr(table, "installed", lambda module: not module)
    extensions.readable.cache_clear()
    yield
    extensions.readable.cache_clear()


def fill(folder: Path) -> None:
    """In two class folders, after ``MANY``; and three files of resource forks."""
    for kind, count in MANY.items():
        for number in range(count):
            file = folder / ("a" if number % 2 else "b") / f"{number}{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind and is_image(file.name) and not is_array(file.name):
                Image.new("RGB", (40, 40), (number, 0, 0)).save(file)
            else:
                file.touch()
    for number in range(3):
        (folder / "a" / f"._{number}.jpg").touch()
    (folder / "a" / ".DS_Store").touch()
    (folder / "a" / "folder.heic").mkdir()


def test_pictures_of_all_formats_are_listed_and_others_counted(tmp_path: Path) -> None:
    fill(tmp_path)
    source = Folder(tmp_path)
    assert len(source) == 4 + 3 + 2 + 1 + 1
    for index in range(len(source)):
        assert source.read(index).shape == (40, 40, 3)
    assert source.passed_over == SAID


def test_an_index_keeps_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "PART", 3)
    monkeypatch.setattr(listing, "SETTLED", -10)  # so that what has just changed is kept
    root = tmp_path / "many"
    fill(root)
    assert Folder(root).passed_over == SAID
    with monkeypatch.context() as patch:
        patch.setattr(listing, "_Walk", None)  # not called again
        assert Folder(root).passed_over == SAID
    (file,) = (tmp_path / "cache" / "index").glob("*.folder")
    index = read(file)
    assert index is not None
    # An index of the version before, which knew fewer extensions, is built again.
    old = {name: index.meta[name] for name in ("first", "entries", "stamp")} | {"format": 1}
    write(file, lambda: iter([record_batch(folder=[b""])]), old)
    assert len(Folder(root)) == 11


def test_where_there_are_none_but_such(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    with pytest.raises(InputError, match=r"no image in this folder .*; 1 file is passed over: 1 \.heic \(pip install"):
        Folder(tmp_path)


@pytest.mark.parametrize(("pictures", "arrays", "read"), [(1, 40, 40), (4, 40, 40), (5, 40, 5), (0, 2, 2), (3, 0, 3)])
def test_of_pictures_and_arrays_either_are_read_and_the_others_said(
    pictures: int, arrays: int, read: int, tmp_path: Path
) -> None:
    for number in range(pictures):
        Image.new("RGB", (40, 40)).save(tmp_path / f"preview {number}.jpg")
    for number in range(arrays):
        np.save(tmp_path / f"{number}.npy", np.zeros((8, 8), "float32"))
    source = Folder(tmp_path)
    assert len(source) == read
    said = ""
    if read == arrays and pictures:
        said = f" passed over: {pictures} .jpg beside .npy or .npz (which are the images where there are 10 of them"
    elif arrays and pictures:
        said = f" passed over: {arrays} .npy or .npz beside pictures (read where there are 10 of them to a picture"
    assert said in source.passed_over
    assert bool(said) == bool(source.passed_over)
    with pytest.raises(InputError, match="is larger than the data.* or less" + "; .* passed over: " * bool(said)):
        steps_per_epoch(source, 100)


@pytest.mark.parametrize("name", ["IM000001", "1.2.840.113619.2.5"])
def test_files_of_dicom_need_no_extension(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By their first bytes; the index of a set and other files are no images, and a pipe is not opened."""
    (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "README").write_text("no image")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"1 file is passed over: 1 \.dcm \(pip install 'hardviews\[dicom\]'"):
        Folder(tmp_path)
    monkeypatch.setattr(extensions, "installed", lambda module: module in ("", "pydicom"))
    extensions.readable.cache_clear()
    assert [Path(Folder(tmp_path).path(0)).name] == [name]
    assert len(Folder(tmp_path)) == 1


def tar(path: Path, names: list[str]) -> Path:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(picture.getvalue())
            archive.addfile(info, io.BytesIO(picture.getvalue()))
    return path


NAMES = ["1.avif", "2.heic", "2.cls", "3.heic", "3.png", "x/4.part.png", "._1.png", "5.json", "6.svg", "7.jpx"]
IN_SHARD = (
    "4 files are passed over: 1 .heic (pip install 'hardviews[heic]' reads them) and 1 .svg (not read as pictures: "
    "convert or unpack them to JPEG or PNG) and 1 with more than one dot in the name (in a tar, the extension begins "
    "at the first; --image-column names it) and 1 hidden (the name begins with a dot)"
)


def test_shards_tell_which_samples_have_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    file = tar(tmp_path / "a.tar", NAMES)
    source = open_source(str(file))
    assert isinstance(source, Shards)
    assert [Path(source.path(k)).name for k in range(len(source))] == ["1.avif", "3.png", "7.jpx"]
    assert source.passed_over == IN_SHARD
    monkeypatch.setattr(shards, "CACHED_FROM", 1)
    for _ in ("built", "mapped"):
        assert Shards([file], "a").passed_over == IN_SHARD
    assert list((tmp_path / "cache").glob("index/*.shards"))
    # Who names the image leaves the rest out on purpose.
    assert open_source(str(file), image_column="heic").passed_over == ""  # type: ignore[attr-defined]


def test_a_stream_tells_of_each_kind_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the end of a shard, since nobody knows before what comes."""
    for name, members in (("0", NAMES), ("1", NAMES), ("2", [*NAMES, "9.exr"])):
        tar(tmp_path / f"{name}.tar", members)
    stream = tar_stream(f"pipe:cat {tmp_path}/{{0..2}}.tar", 9, allow_pipe=True)
    with caplog.at_level(logging.WARNING):
        for shard in range(3):
            assert len(list(stream.read(shard))) == 3
    first, second = (record.message for record in caplog.records)
    assert f"0.tar: {IN_SHARD}" in first
    assert "1 .exr" in second


@pytest.mark.parametrize("name", ["a.heic", "a.DNG", "a.svg", "a.exr", "a.jxl", "._a.png"])
def test_what_looks_like_a_picture_and_is_none(name: str) -> None:
    assert not is_image(name) or name.startswith(".")
    assert passed_over(name)


@pytest.mark.parametrize("name", ["a.txt", "a", ".DS_Store", "a.json", "a.jpg.part", "labels.csv"])
def test_what_does_not(name: str) -> None:
    assert not is_image(name)
    assert not passed_over(name)


def test_every_extension_in_any_case() -> None:
    assert all(is_image(f"a{extension}") and is_image(f"a{extension.upper()}") for extension in EXTENSIONS)
    assert not any(passed_over(f"a{extension}") for extension in EXTENSIONS)
    assert in_words({}) == ""


def test_arrays_are_images_where_there_are_no_others(tmp_path: Path) -> None:
    for name in ("a/0.npy", "a/1.npz", "b/2.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    alone = Folder(tmp_path)
    assert alone.files == ["a/0.npy", "a/1.npz", "b/2.npy"]
    assert alone.passed_over == ""
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "0.png")
    beside = Folder(tmp_path)
    assert beside.files == ["b/0.png"]
    assert beside.passed_over.startswith("3 files are passed over: 3 .npy or .npz beside pictures (read")


def test_an_array_beside_a_picture_of_a_tar_is_not_its_image(tmp_path: Path) -> None:
    source = open_source(str(tar(tmp_path / "a.tar", ["1.npy", "1.png", "2.jpg", "2.npy", "3.npy", "3.npz"])))
    assert [Path(source.path(k)).name for k in range(len(source))] == ["1.png", "2.jpg", "3.npy"]


def test_a_folder_that_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zarr" / "0").mkdir(parents=True)
    (tmp_path / "a.zarr" / "0" / "1.jpg").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    source = Folder(tmp_path)
    assert source.files == ["b.png"]
    assert source.passed_over == "1 file is passed over: 1 .zarr (pip install 'hardviews[zarr]' reads them)"
    monkeypatch.setattr(extensions, "installed", lambda _: True)
    extensions.readable.cache_clear()
    assert Folder(tmp_path).files == ["a.zarr", "b.png"]


def test_what_extras_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a.dcm", "a.DICOM", "a.heic", "a.zarr")
    assert not any(is_image(name) for name in names)
    assert all(passed_over(name) for name in names)
    monkeypatch.setattr(extensions, "installed", lambda _: True)
    extensions.readable.cache_clear()
    assert all(is_image(name) for name in names)
    assert not any(passed_over(name) for name in names)


def test_an_index_of_other_formats_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "PART", 3)
    monkeypatch.setattr(listing, "SETTLED", -10)
    root = tmp_path / "many"
    fill(root)
    assert len(Folder(root)) == 11
    monkeypatch.setattr(extensions, "installed", lambda module: module == "pillow_heif" or not module)
    extensions.readable.cache_clear()
    assert len(Folder(root)) == 16
