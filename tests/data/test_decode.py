"""Every mode against known pixel values; bounds; damage."""

import os
import pickle
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.labelled.semantic import read_mask
from hardviews.data.reading.decode import FORMATS, Bounds, UnreadableImage, decode
from hardviews.data.reading.extensions import EXTENSIONS
from hardviews.errors import InputError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_rgb_is_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    out = decode(encoded(Image.fromarray(pixels)))
    assert out.dtype == torch.uint8
    np.testing.assert_array_equal(out.numpy(), pixels)


@pytest.mark.parametrize(
    ("image", "kind", "rgb"),
    [
        (Image.new("1", (4, 3), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (4, 3), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (4, 3), (100, 0)), "PNG", (255, 255, 255)),  # nothing but the white below
        (Image.new("LA", (4, 3), (100, 255)), "PNG", (100, 100, 100)),
        (Image.new("RGBA", (4, 3), (0, 100, 200, 51)), "PNG", (204, 224, 244)),  # 20 % on white
        (Image.new("CMYK", (4, 3), (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (Image.new("CMYK", (4, 3), (0, 0, 0, 255)), "TIFF", (0, 0, 0)),
        (Image.new("I;16", (4, 3), 65535), "PNG", (255, 255, 255)),
        (Image.new("I;16", (4, 3), 257 * 40), "PNG", (40, 40, 40)),
        (Image.new("I;16", (4, 3), 257 * 40), "TIFF", (40, 40, 40)),
        (Image.new("I", (4, 3), 257 * 200), "TIFF", (200, 200, 200)),
        (Image.new("F", (4, 3), 0.2), "TIFF", (51, 51, 51)),
        (Image.new("F", (4, 3), 51.0), "TIFF", (51, 51, 51)),
        (Image.new("F", (4, 3), float("nan")), "TIFF", (0, 0, 0)),
    ],
)
def test_mode(image: Image.Image, kind: str, rgb: tuple[int, int, int]) -> None:
    out = decode(encoded(image, kind))
    assert out.shape == (3, 4, 3)
    assert (out == torch.tensor(rgb)).all()


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 150, 100])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image)).tolist() == [[[10, 20, 30], [200, 150, 100]]]
    assert decode(encoded(image, transparency=0)).tolist() == [[[255, 255, 255], [200, 150, 100]]]
    assert decode(encoded(image, "GIF", transparency=0)).tolist() == [[[255, 255, 255], [200, 150, 100]]]


def test_transparent_colour_of_rgb_and_grey() -> None:
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (9, 9, 9))
    assert decode(encoded(rgb, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [9, 9, 9]]]
    assert decode(encoded(Image.new("L", (1, 1), 5), transparency=5)).tolist() == [[[255, 255, 255]]]


def test_cmyk_jpeg_and_grey_jpeg() -> None:
    red = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))[8, 8].tolist()
    assert red[0] > 240
    assert max(red[1:]) < 15
    assert (decode(encoded(Image.new("L", (16, 16), 90), "JPEG")).float() - 90).abs().max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    upright = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3) * 40
    stored = {  # how a camera stores the upright picture for each orientation: the inverse of what undoes it
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    np.testing.assert_array_equal(decode(data)[..., 0].numpy(), upright)


def test_exif_orientation_with_shrinking() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = decode(encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif), Bounds(50))
    assert out.shape == (100, 50, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_larger_pictures_are_shrunk_and_smaller_ones_are_not(kind: str) -> None:
    ramp = np.linspace(0, 255, 640).astype(np.uint8)[None, :, None].repeat(480, 0).repeat(3, 2)
    data = encoded(Image.fromarray(ramp), kind)
    assert decode(data, Bounds(480)).shape == (480, 640, 3)
    out = decode(data, Bounds(100))
    assert out.shape == (100, 133, 3)
    want = np.linspace(0, 255, 133)
    assert np.abs(out[50, :, 0].numpy() - want).max() < 5


def test_shrinking_is_antialiased() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (600, 600), dtype=np.uint8) * 255
    out = decode(encoded(Image.fromarray(noise)), Bounds(60)).float()
    assert out.std() < 25  # picking every tenth pixel would keep 127


@pytest.mark.parametrize("size", [(20000, 10), (10, 20000), (1, 1), (4000, 3000), (3, 30000)])
@pytest.mark.parametrize("bounds", [Bounds(512, 10_000), Bounds(8, 0), Bounds(0, 1), Bounds(100, 100_000)])
def test_bounds_hold_for_any_size(size: tuple[int, int], bounds: Bounds) -> None:
    width, height = bounds.fit(*size)
    assert 1 <= width <= size[0]
    assert 1 <= height <= size[1]
    if bounds.side:
        assert min(width, height) <= bounds.side
    if bounds.pixels:
        assert width * height <= bounds.pixels


def test_damage_is_named() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg, png = encoded(noise, "JPEG"), encoded(noise)
    for data, reason in [
        (b"", "empty"),
        (b"not a picture", "not a picture of a known format"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"),
    ]:
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(data, name="x/é.jpg")
        assert caught.value.path == "x/é.jpg"
        assert "\n" not in str(caught.value)
        assert "0x" not in caught.value.reason  # the same on every try
        again = pickle.loads(pickle.dumps(caught.value))  # as it travels from a worker
        assert (again.path, again.reason) == (caught.value.path, caught.value.reason)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once somebody has run ``gs``."""
    folder, mark = tmp_path / "bin", tmp_path / "ran"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # which remembers whether there is one
    return mark


def test_a_picture_that_is_a_program_is_not_run(tmp_path: Path, ghostscript: Path) -> None:
    program = encoded(Image.new("RGB", (8, 8)), "EPS")
    (tmp_path / "x.jpg").write_bytes(program)
    for data in (program, tmp_path / "x.jpg"):
        with pytest.raises(UnreadableImage, match="not a picture of a known format"):
            decode(data)
    with pytest.raises(InputError, match="can't be read as a mask"):
        read_mask(tmp_path / "x.jpg")
    assert not ghostscript.exists()


def test_any_known_format_is_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    registered = Image.registered_extensions().items()
    assert {extension for extension, kind in registered if kind in (*FORMATS, "MPO")} == set(EXTENSIONS)
    for kind in (*FORMATS, "MPO"):
        file = tmp_path / f"{kind}.png"
        file.write_bytes(encoded(Image.new("RGB", (16, 16), (200, 0, 0)), kind))
        assert abs(int(decode(file)[8, 8, 0]) - 200) < 5, kind


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(UnreadableImage, match="Is a directory"):
        decode(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(UnreadableImage, match="empty"):
        decode(tmp_path / "empty.png")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    header = bytearray(encoded(Image.new("L", (1, 1))))
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(UnreadableImage, match="more than 89478485"):
        decode(bytes(header))


def test_any_byte_changed_gives_pixels_or_a_named_fault() -> None:
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        data = encoded(picture, kind)
        for _ in range(60):
            broken = bytearray(data)
            for at in random.integers(0, min(len(data), 300), 3):
                broken[at] = random.integers(256)
            with suppress(UnreadableImage):
                assert decode(bytes(broken), Bounds(64, 100_000)).shape[2] == 3


MEASURE = """
import resource, sys
from hardviews.data.sources.folder import Folder
from hardviews.data.loading.loader import Loader
source = Folder(sys.argv[1])
loader = Loader(source, 8, seed=0, decode_size=int(sys.argv[2]), max_batch_bytes=int(sys.argv[3]))
source.read(0, loader.bounds)  # the decoder's own needs: one picture at a time
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = loader.batches()
for _ in range(3):
    batch = next(batches)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, batch.pixels.numel() / 2**20)
"""


@pytest.mark.parametrize("limit", [1 << 30, 2 << 20])
def test_memory_is_bounded_with_large_pictures(tmp_path: Path, limit: int) -> None:
    picture = Image.effect_noise((400, 300), 50).resize((4000, 3000)).convert("RGB")
    for k in range(8):
        picture.save(tmp_path / f"{k}.jpg")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), "512", str(limit)]
    grown, batch = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    full = 8 * 4000 * 3000 * 3 / 2**20  # 275 MiB decoded
    assert batch <= min(limit / 2**20, 8 * 512 * 683 * 3 / 2**20)
    assert grown < full / 4
