"""Local shards: what WebDataset reads, in its order, by number; and what is said of damaged ones."""

import io
import os
import pickle
import shutil
import subprocess
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch
import webdataset as wds

from hardviews.data.loading.loader import Loader
from hardviews.data.reading.decode import UnreadableImage, decode
from hardviews.data.sources import open_source
from hardviews.data.sources import shards as source_of_shards
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shards import Shards, expand
from hardviews.errors import InputError
from tests.data.tars import png, shards


def test_content_order_and_labels_are_webdatasets(tmp_path: Path) -> None:
    files = shards(tmp_path / "set", [5, 1, 7])
    theirs = list(wds.WebDataset([str(file) for file in files], shardshuffle=False, empty_check=False))
    for data in ("set", "set/*.tar", "set/{000..002}.tar", "set/{000,001,002}.tar"):
        source = open_source(str(tmp_path / data))
        assert isinstance(source, Shards)
        assert len(source) == len(theirs) == 13
        assert source.labels is not None
        assert source.labels.tolist() == [int(sample["cls"]) for sample in theirs]
        for k, sample in enumerate(theirs):
            assert torch.equal(source.read(k), decode(sample["png"]))
            assert source.path(k) == f"{sample['__url__']}/{sample['__key__']}.png"
    assert source.native_size == 8


def members(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_header(tmp_path: Path, form: int) -> None:
    """Long names, folders, links, foreign members, other bytes than ASCII, sizes that fill a block."""
    path = tmp_path / "a.tar"
    deep = "/".join(["folder" * 3] * 7)
    names = ["é/ü.png", "x.JPG", f"{deep}/y.webp", "z.png"]
    if form != tarfile.USTAR_FORMAT:
        names.append("n" * 300 + ".png")
    contents = [png(k) for k in range(len(names))]
    with tarfile.open(path, "w", format=form) as tar:
        tar.addfile(folder := tarfile.TarInfo("folder"))
        folder.type = tarfile.DIRTYPE
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            other = tarfile.TarInfo(f"other-{kind!r}.png")
            other.type, other.linkname = kind, "target" * 30 if form != tarfile.USTAR_FORMAT else "target"
            tar.addfile(other)
        for name, data in zip(names, contents, strict=True):
            for ending, content in (("", data), (".txt", b"x" * 512), (".empty", b"")):
                info = tarfile.TarInfo(name + ending)
                info.size, info.uid, info.mtime = len(content), 5_000_000 if form else 0, 1.5
                tar.addfile(info, io.BytesIO(content))
    source = Shards([path], "a")
    assert [source.path(k) for k in range(len(source))] == [f"{path}/{name}" for name in names]
    assert [source.read(k)[0, 0, 0].item() for k in range(len(names))] == list(range(len(names)))
    assert source.labels is None


def test_which_members_are_images_and_labels(tmp_path: Path) -> None:
    files = [
        ("a.left.png", png(1)), ("a.right.png", png(2)), ("a.cls", b"3\n"), ("a.json", b"{}"),
        ("__meta__.png", png(9)), (".hidden.png", png(9)), ("none", b""),
        ("b.left.png", png(4)), ("b.right.png", png(5)), ("b.cls", b"7"),
    ]  # fmt: skip
    path = members(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match="no member with an extension of images in 1 shard;"):
        Shards([path], "a")
    right = open_source(str(path), image_column="right.png")
    assert [right.read(k)[0, 0, 0].item() for k in range(len(right))] == [2, 5]
    assert right.labels is not None
    assert right.labels.tolist() == [3, 7]
    assert open_source(str(path), image_column="right.png", label_column="json").labels is None
    # in a folder or not, an image is a sample with what follows it, and the first of several counts
    path = members(
        tmp_path / "b.tar", [("x/1.jpg", png(1)), ("x/1.png", png(2)), ("y/1.png", png(3)), ("y/1.cls", b"a")]
    )
    source = Shards([path], "b")
    assert [source.read(k)[0, 0, 0].item() for k in range(len(source))] == [1, 3]
    assert source.labels is None


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_are_unreadable_and_those_after_them_are_not(tmp_path: Path, form: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        for hole in range(40):  # more than one block of the map of holes
            file.seek(hole * (1 << 17))
            file.write(b"x" * 4096)
    (tmp_path / "b.png").write_bytes(png(7))
    subprocess.run(["tar", "--sparse", f"--format={form}", "-cf", "s.tar", "a.png", "b.png"], cwd=tmp_path, check=True)
    assert (tmp_path / "s.tar").stat().st_size < 1 << 20
    source = Shards([tmp_path / "s.tar"], "s")
    assert [source.path(k).rpartition("/")[2] for k in range(len(source))] == ["a.png", "b.png"]
    with pytest.raises(UnreadableImage, match="sparse"):
        source.read(0)
    assert source.read(1)[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("cut in a member", "ends here"),
        ("cut between members", "ends here"),
        ("header", "damaged at byte 2048: no header"),
        ("gzip", "damaged at byte 0: .*unpacked"),
        ("empty", "ends here"),
    ],
)
def test_a_damaged_shard_is_named_with_the_place(tmp_path: Path, harm: str, message: str) -> None:
    files = shards(tmp_path, [2, 2])
    data = bytearray(files[1].read_bytes())
    data[2050] ^= 1  # in the header of the third member
    files[1].write_bytes(
        {
            "cut in a member": files[1].read_bytes()[:700],
            "cut between members": files[1].read_bytes()[:2048],
            "header": bytes(data),
            "gzip": b"\x1f\x8b" + bytes(1000),
            "empty": b"",
        }[harm]
    )
    with pytest.raises(InputError, match=rf"001\.tar: .*{message}") as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_shards_and_other_tars(tmp_path: Path) -> None:
    shards(tmp_path, [1])
    with pytest.raises(InputError, match=r"of 3 shards .*001\.tar is missing"):
        open_source(f"{tmp_path}/{{000..002}}.tar")
    with pytest.raises(InputError, match="no such file"):
        open_source(f"{tmp_path}/none-*.tar")
    (tmp_path / "a.png").write_bytes(png(0))
    assert isinstance(open_source(str(tmp_path)), Folder)  # images beside a tar are a folder of images


def test_braces() -> None:
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand("{9..11}") == ["9", "10", "11"]
    assert expand("{a,b}/{1..2}.tar") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]
    assert expand("plain {x}.tar") == ["plain {x}.tar"]


def test_an_image_that_is_damaged_or_gone_is_unreadable(tmp_path: Path) -> None:
    path = members(tmp_path / "a.tar", [("a.png", png(1)), ("b.png", b"no picture"), ("c.png", png(3))])
    source = Shards([path], "a")
    with pytest.raises(UnreadableImage, match=r"a\.tar/b\.png"):
        source.read(1)
    os.truncate(path, 600)
    with pytest.raises(UnreadableImage, match="shorter"):
        source.read(2)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_resume_are_those_of_a_folder_of_the_same_images(
    tmp_path: Path, processes: int, workers: int
) -> None:
    source = Shards(shards(tmp_path / "set", [10, 3, 13, 14]), "set")
    folder = tmp_path / "folder"
    folder.mkdir()
    for k in range(40):
        (folder / f"{k:06d}.png").write_bytes(png(k))

    def steps(of: Shards | Folder, first: int, last: int, workers: int = workers) -> list[list[int]]:
        """Of every step the colours of the global batch."""
        parts = [
            Loader(of, 8 // processes, 0, p, processes, workers, in_memory=False).batches(first)
            for p in range(processes)
        ]
        seen = []
        for _ in range(first, last):
            batches = [next(part) for part in parts]
            assert all((batch.image(b)[0] == batch.index[b]).all() for batch in batches for b in range(len(batch)))
            seen.append([index for batch in batches for index in batch.index.tolist()])
        return seen

    through = steps(source, 0, 10)
    assert through == steps(Folder(folder), 0, 10, 0)
    assert sorted(k for step in through[:5] for k in step) == list(range(40))
    assert sorted(k for step in through[5:] for k in step) == list(range(40))
    assert steps(source, 7, 10) == through[7:]


def test_a_large_index_is_kept_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    files = shards(tmp_path / "set", [4, 5])
    small = Shards(files, "set")
    monkeypatch.setattr(source_of_shards, "CACHED_FROM", 5)
    built = Shards(files, "set")
    (index,) = (tmp_path / "cache").glob("index/*.shards")
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "_read_headers", None)  # not called again
        kept = Shards(files, "set")
        sent = pickle.dumps(kept)
        assert b"000001.png" not in sent
        copy = pickle.loads(sent)
    for source in (built, kept, copy, pickle.loads(pickle.dumps(small))):
        assert [source.path(k) for k in range(9)] == [small.path(k) for k in range(9)]
        assert all(torch.equal(source.read(k), small.read(k)) for k in range(9))
    assert kept.labels is not None
    assert small.labels is not None
    assert torch.equal(kept.labels, small.labels)
    index.write_bytes(index.read_bytes()[:-9])
    assert len(Shards(files, "set")) == 9
    shards(tmp_path / "set", [4, 6])  # another size
    assert len(Shards(files, "set")) == 10
    assert len(list(islice(Loader(Shards(files, "set"), 5, 0).batches(), 2))) == 2
