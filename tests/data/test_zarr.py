"""Chunks of Zarr arrays: every codec that is read, as zarr reads it, and no more bytes than an array claims."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardviews.data.reading.decode import Bounds, Part, UnreadableImage, Window, decode
from hardviews.data.reading.formats import scene

zarr = pytest.importorskip("zarr", reason="needs the extra zarr")
numcodecs = pytest.importorskip("numcodecs", reason="needs the extra zarr")

STORED = Bounds(form=None)
CODECS = ["gzip", "zlib", "bz2", "lzma", "zstd", "blosc", "lz4"]
SIDE = 100  # of the only chunk, of uint16
BOMB = 1 << 27  # bytes


def describe(folder: Path, version: int, codecs: list[Any], sharded: bool = False) -> Path:
    """Writes the metadata of an array of one chunk, or of a shard with one. Codecs have the names of version 2; the
    last one packs."""
    meta: dict[str, Any] = {"zarr_format": version, "shape": [SIDE, SIDE], "fill_value": 0}
    if version == 2:
        meta |= {"dtype": "<u2", "chunks": [SIDE, SIDE], "order": "C"}
        meta |= {"filters": codecs[:-1] or None, "compressor": codecs[-1]}
    else:
        new = [{"name": f"numcodecs.{c['id']}", "configuration": {k: c[k] for k in c if k != "id"}} for c in codecs]
        changing = [codec for codec in new if codec["name"] in ("numcodecs.delta", "numcodecs.fixedscaleoffset")]
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        chain: list[Any] = [*changing, little, *(codec for codec in new if codec not in changing)]
        if sharded:
            inner = {"chunk_shape": [SIDE, SIDE], "codecs": chain, "index_codecs": [little, {"name": "crc32c"}]}
            chain = [{"name": "sharding_indexed", "configuration": inner}]
        grid = {"name": "regular", "configuration": {"chunk_shape": [SIDE, SIDE]}}
        keys = {"name": "default", "configuration": {"separator": "/"}}
        meta |= {"node_type": "array", "data_type": "uint16", "chunk_grid": grid, "chunk_key_encoding": keys}
        meta |= {"codecs": chain, "attributes": {}}
    folder.mkdir()
    (folder / (".zarray" if version == 2 else "zarr.json")).write_text(json.dumps(meta))
    return folder


def filled(folder: Path) -> None:
    """An array that zarr fills, of metadata alone."""
    try:
        zarr.open_array(str(folder), mode="r+")[:] = picture()
    except KeyError:
        pytest.skip("this version of zarr knows some codecs in version 2 of the format alone")


def picture() -> Any:
    return (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 7001).astype("uint16")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
@pytest.mark.parametrize("chain", [[codec] for codec in CODECS] + [
    ["shuffle", "zlib"], ["delta", "lzma"], ["fixedscaleoffset", "blosc"], ["crc32", "gzip"],
])  # fmt: skip
@pytest.mark.parametrize(("version", "sharded"), [(2, False), (3, False), (3, True)])
def test_codecs(chain: list[str], version: int, sharded: bool, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "delta": {"dtype": "<u2", "astype": "<i4"},
        "fixedscaleoffset": {"dtype": "<u2", "astype": "<f8", "offset": 0, "scale": 2},
        "shuffle": {"elementsize": 2},
    }
    codecs = [{"id": codec} | settings.get(codec, {}) for codec in chain]
    filled(describe(tmp_path / "a.zarr", version, codecs, sharded))
    assert np.array_equal(decode(tmp_path / "a.zarr", STORED)[..., 0].numpy(), picture())


def zstd_frame(size: int, claimed: int | None) -> bytes:
    """A frame that repeats a byte, of blocks of up to 128 KiB."""
    blocks = [min(1 << 17, size - start) for start in range(0, size, 1 << 17)]
    header = b"\x00\x58" if claimed is None else b"\xa0" + claimed.to_bytes(4, "little")
    body = (
        ((block << 3) + 2 + (number == len(blocks) - 1)).to_bytes(3, "little") + b"\7"
        for number, block in enumerate(blocks)
    )
    return b"\x28\xb5\x2f\xfd" + header + b"".join(body)


def bombs() -> dict[str, tuple[str, bytes]]:
    """Kind → codec, and a chunk that unpacks to ``BOMB`` bytes."""
    zeros, whole = bytes(BOMB), 2 * SIDE * SIDE
    return {
        "gzip": ("gzip", gzip.compress(zeros, 1)),
        "zlib": ("zlib", zlib.compress(zeros, 1)),
        "bz2": ("bz2", bz2.compress(zeros, 1)),
        "lzma": ("lzma", lzma.compress(zeros, preset=0)),
        "blosc": ("blosc", bytes(numcodecs.Blosc().encode(zeros))),
        "lz4": ("lz4", bytes(numcodecs.LZ4().encode(zeros))),
        "zstd": ("zstd", zstd_frame(BOMB, BOMB)),
        "zstd without a size": ("zstd", zstd_frame(BOMB, None)),
        "zstd with a false size": ("zstd", zstd_frame(BOMB, whole)),
        "zstd in two frames": ("zstd", zstd_frame(whole, whole) + zstd_frame(BOMB, BOMB)),
    }


WATCHED = """
import resource, sys
from pathlib import Path
from hardviews.data.reading.decode import Bounds, UnreadableImage, decode

def tried(file):
    try:
        decode(Path(file), Bounds(form=None))
    except UnreadableImage as error:
        return error.reason
    return "decoded"

tried(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in sys.argv[2:]:
    print(tried(file))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_a_chunk_that_unpacks_to_more_than_it_claims_takes_no_memory(tmp_path: Path) -> None:
    files = []
    filled(describe(tmp_path / "good.zarr", 2, [{"id": "zstd"}]))
    for kind, (codec, chunk) in bombs().items():
        for version, sharded in ((2, False), (3, False), (3, True)):
            folder = describe(tmp_path / f"{kind} {version} {sharded}.zarr", version, [{"id": codec}], sharded)
            file = folder / ("0.0" if version == 2 else "c/0/0")
            file.parent.mkdir(parents=True, exist_ok=True)
            index = np.array([0, len(chunk)], "<u8").tobytes()
            tail = index + numcodecs.CRC32C().encode(index)[-4:].tobytes()
            file.write_bytes(chunk + tail * sharded)
            files.append(str(folder))
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "good.zarr"), *files]
    *said, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for name, reason in zip(files, said, strict=True):
        assert "unpacks to" in reason or "estination buffer" in reason, (name, reason)
    assert int(grown) < BOMB // 4


def changed(folder: Path, **settings: Any) -> None:
    (folder / ".zarray").write_text(json.dumps(json.loads((folder / ".zarray").read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"filters": [{"id": "zlib"}]}, "packed or converted twice"),
        ({"filters": [{"id": "delta", "dtype": "<f8", "astype": "u1"}] * 2}, "packed or converted twice"),
        ({"filters": [{"id": "delta", "dtype": "S9999"}]}, "an array of S9999 is not read"),
        ({"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33}]}}, "other kinds than xz"),
        ({"compressor": {"id": "pcodec"}}, "codec 'pcodec' is not read"),
        ({"dtype": "<U9999"}, "an array of <U9999 is not read"),
        ({"chunks": [0, 5]}, "are empty"),
        ({"chunks": [1 << 20, 1 << 20]}, "MiB decoded are more than"),
    ],
)
def test_what_could_grow_is_refused(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    filled(describe(tmp_path / "a.zarr", 2, [{"id": "zlib"}]))
    changed(tmp_path / "a.zarr", **settings)
    with pytest.raises(UnreadableImage, match=reason):
        decode(tmp_path / "a.zarr", STORED)


def test_files_are_bounded(tmp_path: Path) -> None:
    """A chunk that takes no room on the disk, and one whose reading would never end."""
    describe(tmp_path / "a.zarr", 2, [{"id": "zlib"}])
    with (tmp_path / "a.zarr/0.0").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UnreadableImage, match="holds 1073741824 bytes"):
        decode(tmp_path / "a.zarr", STORED)
    (tmp_path / "a.zarr/0.0").unlink()
    os.mkfifo(tmp_path / "a.zarr/0.0")
    with pytest.raises(UnreadableImage, match=r"0\.0 is no file"):
        decode(tmp_path / "a.zarr", STORED)


def test_chunks_that_are_read_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 72 KiB, of which a picture touches nine; a tile at the corner of four is read."""
    monkeypatch.setattr(scene, "MOST_DECODED", 100 << 10)
    options = {"shape": (72, 90, 90), "chunks": (72, 32, 32), "dtype": "uint8", "fill_value": 7}
    zarr.create_array(store=str(tmp_path / "a.zarr"), **options)[5, 32:34, 64:66] = 9
    with pytest.raises(UnreadableImage, match="MiB decoded are more than"):
        decode(tmp_path / "a.zarr", STORED)
    tile = decode(tmp_path / "a.zarr", STORED, part=Part(5, Window(31, 63, 4, 4)))[..., 0]
    assert tile.tolist() == [[7] * 4, [7, 9, 9, 7], [7, 9, 9, 7], [7] * 4]
