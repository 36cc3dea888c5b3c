"""Mutated inputs to whatever reads what others have written: the stated errors and no other.

``make endure`` runs the full counts, ``make test`` a sample.
"""

import os
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hardviews.commands.pretrain import parse
from hardviews.data.reading.decode import Bounds, Part, UnreadableImage, Window, decode
from hardviews.errors import InputError, RunError
from hardviews.training.output import checkpoint
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import RGB
from tests.data.pixels import deep_png

COUNT = 10_000 if os.environ.get("ENDURE") else 300


def mutated(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits flipped, stretches overwritten, cut out, doubled, or everything cut short."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            place, length = draw.randrange(len(data) or 1), draw.randint(1, 64)
            match draw.randrange(5):
                case 0 if data:
                    data[place] ^= 1 << draw.randrange(8)
                case 1:
                    data[place : place + length] = draw.randbytes(length)
                case 2:
                    del data[place : place + length]
                case 3:
                    data[place:place] = data[place : place + length]
                case _ if draw.random() < 0.2:
                    del data[place:]
        yield bytes(data)


def encoded(kind: str, mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    whole = BytesIO()
    Image.fromarray(noise).convert(mode).save(whole, kind)
    return whole.getvalue()


KINDS = "JPEG-RGB JPEG-CMYK PNG-RGBA PNG-P WEBP-RGB GIF-P TIFF-RGB BMP-RGB"


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


@pytest.mark.parametrize(("kind", "mode"), [pair.split("-") for pair in KINDS.split()])
def test_pictures(kind: str, mode: str) -> None:
    bounds = Bounds(side=16, pixels=16 * 64)
    for number, data in enumerate(mutated(encoded(kind, mode), COUNT, seed=1)):
        try:
            pixels = decode(data, bounds)
        except UnreadableImage as error:
            assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
        else:
            assert pixels.dtype == torch.uint8
            assert pixels.shape[2] == 3
            assert 0 < pixels.shape[0] * pixels.shape[1] <= bounds.pixels, number


def numbers(dtype: str, *shape: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def array_file(kind: str) -> bytes:
    whole = BytesIO()
    if kind == "npy":
        np.save(whole, numbers("uint16", 24, 31))
    else:
        np.savez_compressed(whole, numbers("uint16", 24, 31))
    return whole.getvalue()


def tiff_file(dtype: str, shape: tuple[int, ...], **options: Any) -> bytes:
    whole = BytesIO()
    library = pytest.importorskip("tifffile", reason="needs the extra tiff")
    library.imwrite(whole, numbers(dtype, *shape), **{"photometric": "minisblack", **options})
    return whole.getvalue()


def dicom_file(name: str) -> bytes:
    library = pytest.importorskip("pydicom", reason="needs the extra dicom")
    return (Path(library.__file__).parent / "data" / "test_files" / name).read_bytes()


def heic_file() -> bytes:
    library = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    whole = BytesIO()
    library.from_pillow(Image.fromarray(numbers("uint8", 24, 31, 3))).save(whole, quality=50)
    return whole.getvalue()


SENSORS: dict[str, Callable[[], bytes]] = {
    "npy": lambda: array_file("npy"),
    "npz": lambda: array_file("npz"),
    "PNG of 16 bits": lambda: deep_png(numbers("uint16", 24, 31, 3)),
    "TIFF in tiles": lambda: tiff_file(
        "uint16", (40, 50, 4), planarconfig="contig", tile=(16, 16), compression="zlib", bigtiff=True
    ),
    "TIFF in strips": lambda: tiff_file(
        "uint8", (5, 40, 50), planarconfig="separate", rowsperstrip=9, compression="lzw"
    ),
    "TIFF in JPEG": lambda: tiff_file("uint8", (40, 50, 3), photometric="rgb", compression="jpeg", tile=(16, 16)),
    "OME-TIFF": lambda: tiff_file("uint16", (2, 3, 2, 20, 25), ome=True, metadata={"axes": "TCZYX"}),
    "DICOM": lambda: dicom_file("SC_rgb_small_odd.dcm"),
    "DICOM in run lengths": lambda: dicom_file("SC_rgb_rle_2frame.dcm"),
    "DICOM in JPEG": lambda: dicom_file("SC_rgb_small_odd_jpeg.dcm"),
    "DICOM in lossless JPEG": lambda: dicom_file("SC_rgb_jpeg_gdcm.dcm"),
    "DICOM in JPEG of 12 bits": lambda: dicom_file("JPEG-lossy.dcm"),
    "DICOM in JPEG-LS": lambda: dicom_file("JPEGLSNearLossless_16.dcm"),
    "HEIC": heic_file,
}


@pytest.mark.parametrize("kind", SENSORS)
def test_pictures_as_stored(kind: str) -> None:
    """Also in parts. Half of the changes lie in what is likely a header."""
    whole, count = SENSORS[kind](), COUNT if COUNT > 1000 else COUNT // 6
    header = whole[:1500]
    changed = (start + whole[1500:] for start in mutated(header, count // 2, seed=5))
    for number, data in enumerate(chain(mutated(whole, count // 2, seed=4), changed)):
        for form, part in ((None, None), (RGB, None), (None, Part(0, Window(0, 0, 3, 3)))):
            bounds = Bounds(side=16, pixels=16 * 64, form=form)
            try:
                pixels = decode(data, bounds, part=part)
            except UnreadableImage as error:
                assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
            else:
                assert 0 < pixels.shape[0] * pixels.shape[1] <= bounds.pixels, number
                assert 1 <= pixels.shape[2] <= 32, number


@pytest.mark.parametrize("packed", ["gzip", "zlib", "bz2", "lzma", "zstd", "blosc", "lz4", "in shards"])
def test_folders_of_zarr(packed: str, tmp_path: Path) -> None:
    library = pytest.importorskip("zarr", reason="needs the extra zarr")
    file, options = tmp_path / "a.zarr", {"shape": (24, 31), "chunks": (10, 10), "dtype": "uint16"}
    if packed == "in shards":
        array = library.create_array(store=str(file), shards=(20, 20), **options)
    else:
        codec = pytest.importorskip("numcodecs").get_codec({"id": packed})
        array = library.create_array(store=str(file), zarr_format=2, compressors=codec, **options)
    array[:] = numbers("uint16", 24, 31)
    for name in ("zarr.json", "c/0/0") if packed == "in shards" else (".zarray", "0.0"):
        whole = (file / name).read_bytes()
        for number, data in enumerate(mutated(whole, COUNT if COUNT > 1000 else COUNT // 6, seed=6)):
            (file / name).write_bytes(data)
            try:
                assert decode(file, Bounds(side=16, form=None)).shape[2] <= 32, number
            except UnreadableImage as error:
                assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
        (file / name).write_bytes(whole)


def test_configurations(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    text = (
        b"data: shapes\nmethod:\n  name: simsiam\n  dim: 64\nplan:\n  scale: [0.2, 1.0]\nbackbone:\n  name: resnet18\n"
        b"  keywords: {layers: [1, 1, 1, 1]}\nviews: [4]\nlr: 0.05\nepochs: 3\nclip_by: all\nmean: [0.4, 0.4, 0.4]\n"
    )
    for number, data in enumerate(mutated(text, COUNT if COUNT > 1000 else COUNT // 5, seed=2)):
        run.config_file.write_bytes(data)
        for read in (run.config, lambda: parse(["--config", str(run.config_file)])):
            try:
                read()
            except InputError as error:
                assert one_line(error), number  # noqa: PT017 (any of many may be wrong)


def test_checkpoints(tmp_path: Path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    file = checkpoints.last
    weights = torch.rand(500)
    checkpoints.save({"step": 7, "method": {"w": weights}, "optimizer": {"state": [1, 2.5, None]}})
    for number, data in enumerate(mutated(file.read_bytes(), COUNT, seed=3)):
        file.write_bytes(data)
        try:
            state = checkpoint.load(file)
        except RunError as error:
            assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
        else:  # what was changed says nothing
            assert torch.equal(state["method"]["w"], weights), number
            assert state["optimizer"] == {"state": [1, 2.5, None]}, number
            assert state["step"] == 7, number
