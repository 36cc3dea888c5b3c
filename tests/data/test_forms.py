"""Pictures as they are stored: values computed by hand, for Pillow's formats and NumPy's."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import resize

from hardviews.data.reading.decode import Bounds, Part, UnreadableImage, Window, decode, extent_of, size_of
from hardviews.data.reading.formats import scene
from hardviews.data.reading.formats.layout import guessed
from hardviews.data.reading.forms import not_finite, of_array, on_white
from hardviews.views.pixels import RGB, Pixels
from tests.data.pixels import deep_png

STORED = Bounds(form=None)
Array = NDArray[Any]
SCENE = (100_000, 200_000)


def numbers(dtype: str, *shape: int, seed: int = 0, most: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    if dtype == "float32":
        return draw.normal(0, 500, shape).astype(np.float32)
    span = np.iinfo(dtype)
    return draw.integers(span.min, most or span.max, shape, dtype=dtype, endpoint=True)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    whole = BytesIO()
    image.save(whole, kind, **options)
    return whole.getvalue()


def npy(array: Array) -> bytes:
    whole = BytesIO()
    np.save(whole, array)
    return whole.getvalue()


def test_grey_of_12_and_16_bits_and_floats_keep_every_bit() -> None:
    twelve, sixteen, floats = numbers("uint16", 9, 7, most=4095), numbers("uint16", 9, 7), numbers("float32", 9, 7)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(saved(Image.fromarray(twelve), kind), STORED).numpy()[..., 0], twelve)
        assert np.array_equal(decode(saved(Image.fromarray(sixteen), kind), STORED).numpy()[..., 0], sixteen)
    found = decode(saved(Image.fromarray(floats), "TIFF"), STORED)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy()[..., 0], floats)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_keep_every_bit(channels: int, tmp_path: Path) -> None:
    array = numbers("uint16", 9, 7, channels)
    wanted = array.astype(np.float64)
    if channels == 4:  # the last channel is opacity: on white
        opaque = wanted[..., -1:] / 65535
        wanted = wanted[..., :-1] * opaque + 65535 * (1 - opaque)
    (tmp_path / "a.png").write_bytes(deep_png(array))
    for data in (deep_png(array), tmp_path / "a.png"):
        found = decode(data, STORED)
        assert found.dtype == torch.uint16
        assert np.abs(found.numpy().astype(np.float64) - wanted).max() <= 0.5 + 1e-6
    assert decode(deep_png(array)).shape == (9, 7, 3)  # as ever: 8 bits
    with pytest.raises(UnreadableImage, match="grey of 16 bits with transparency is not read"):
        decode(deep_png(array[..., :2]), STORED)


def test_what_is_of_8_bits_is_as_shown() -> None:
    rgba = numbers("uint8", 9, 7, 4)
    on_white = decode(saved(Image.fromarray(rgba)))
    assert torch.equal(decode(saved(Image.fromarray(rgba)), STORED), on_white)
    grey = Image.fromarray(rgba[..., 0])
    assert torch.equal(decode(saved(grey), STORED), torch.from_numpy(rgba[..., :1]))
    assert decode(saved(Image.fromarray(rgba[..., :2], "LA")), STORED).shape == (9, 7, 1)
    assert decode(saved(grey.convert("P")), STORED).shape == (9, 7, 3)
    assert set(decode(saved(grey.convert("1")), STORED).flatten().tolist()) == {0, 255}
    assert decode(saved(grey.convert("CMYK"), "JPEG"), STORED).shape == (9, 7, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_are_turned_upright(orientation: int) -> None:
    array = numbers("uint16", 9, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(saved(Image.fromarray(array), exif=exif), STORED)
    eight = decode(saved(Image.fromarray((array >> 8).astype(np.uint8)), exif=exif))  # Pillow turns it
    assert np.array_equal(found.numpy()[..., 0] >> 8, eight.numpy()[..., 0])


FORMS = [(1, "uint16"), (1, "int16"), (1, "float32"), (4, "uint8"), (4, "uint16"), (13, "uint16"), (2, "float32")]


@pytest.mark.parametrize(("channels", "dtype"), FORMS)
@pytest.mark.parametrize("first", [False, True])
def test_arrays_of_any_channels(channels: int, dtype: str, first: bool, tmp_path: Path) -> None:
    array = numbers(dtype, 40, 35, channels)
    file = tmp_path / "a.npy"
    np.save(file, array.transpose(2, 0, 1) if first else array)
    np.savez_compressed(tmp_path / "a.npz", array)
    form = Pixels(channels, dtype, rgb=False)  # type: ignore[arg-type]
    for data in (file, file.read_bytes(), tmp_path / "a.npz", npy(np.asfortranarray(array))):
        found = decode(data, Bounds(form=form))
        assert str(found.dtype) == f"torch.{dtype}"
        assert np.array_equal(found.numpy(), array)
    # Shrinking: torchvision's antialiased resize of floats is the oracle.
    small = decode(file, Bounds(20, form=form)).numpy()
    wide = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)
    wanted = resize(wide, [22, 20], antialias=True).permute(1, 2, 0).numpy()
    assert small.shape == wanted.shape
    assert np.abs(small - wanted).max() <= (0.01 if dtype == "float32" else 0.55)
    window = decode(file, Bounds(form=form), part=Part(0, Window(5, 3, 8, 16)))
    assert np.array_equal(window.numpy(), array[5:13, 3:19])


def test_layouts_are_told_apart_by_size() -> None:
    wanted = {
        (9, 7): "YX",
        (224, 224, 3): "YXC",
        (3, 224, 224): "CYX",
        (13, 64, 64): "CYX",
        (20, 30, 20): "YXC",
        (120, 64, 64): "ZYX",
        (30, 64, 64, 1): "TYXC",
        (30, 2, 64, 64): "TCYX",
    }
    assert {shape: guessed(shape).axes for shape in wanted} == wanted
    for shape in ((5,), (0, 4), (2, 2, 2, 2, 2), (50, 50, 50, 50)):
        with pytest.raises(ValueError, match=r"an array of shape"):
            guessed(shape)


def test_frames_of_a_stack(tmp_path: Path) -> None:
    stack = numbers("int16", 50, 40, 36)
    np.save(tmp_path / "a.npy", stack)
    assert extent_of(str(tmp_path / "a.npy")) == (50, 40, 36)
    assert size_of(str(tmp_path / "a.npy")) == (36, 40)
    assert np.array_equal(decode(tmp_path / "a.npy", STORED).numpy()[..., 0], stack[0])
    assert np.array_equal(decode(tmp_path / "a.npy", STORED, part=Part(49)).numpy()[..., 0], stack[49])
    with pytest.raises(UnreadableImage, match="no such part any more: 50 frames"):
        decode(tmp_path / "a.npy", STORED, part=Part(50))


def test_another_form_is_refused() -> None:
    sixteen = saved(Image.fromarray(numbers("uint16", 9, 7)))
    rgb = saved(Image.fromarray(numbers("uint8", 9, 7, 3)))
    with pytest.raises(UnreadableImage, match=r"^bytes: 3 channels of uint8, where 1 of uint16 must be$"):
        decode(rgb, Bounds(form=Pixels(1, "uint16", rgb=False)))
    with pytest.raises(UnreadableImage, match="1 channel of uint16, where 4 of uint8 must be"):
        decode(sixteen, Bounds(form=Pixels(4, rgb=False)))


def test_other_numbers_become_the_nearest_type() -> None:
    wanted = {"int8": "int16", "int32": "float32", "uint32": "float32", "int64": "float32", "float64": "float32",
              "float16": "float32", ">u2": "uint16", ">f4": "float32"}  # fmt: skip
    for stored, dtype in wanted.items():
        array = np.arange(40 * 35).reshape(40, 35) % 100
        found = decode(npy(array.astype(stored)), STORED)
        assert str(found.dtype) == f"torch.{dtype}"
        assert np.array_equal(found.numpy()[..., 0], array)
    assert set(decode(npy(np.eye(40, dtype=bool)), STORED).flatten().tolist()) == {0, 255}


def test_what_is_not_finite_is_replaced_and_counted() -> None:
    array = numbers("float32", 40, 35, 2)
    array[0, 0], array[1, 1], array[2, 2] = np.nan, np.inf, -np.inf
    form = Pixels(2, "float32", low=(-10.0, -20.0), high=(10.0, 20.0), rgb=False)
    found = decode(npy(array), Bounds(form=form))
    assert not_finite(found) == 6
    assert [found[k, k].tolist() for k in range(3)] == [[-10, -20], [10, 20], [-10, -20]]
    found = decode(npy(array), STORED)
    assert np.array_equal(found.numpy(), array, equal_nan=True)  # as it is stored
    assert not_finite(found) == not_finite(decode(npy(array), Bounds(10, form=form))) == 6


def test_percentiles_are_of_numbers_alone() -> None:
    array = np.random.default_rng(0).uniform(1000, 3000, (40, 40, 1)).astype(np.float32)
    array[:8] = np.nan
    form = Pixels(1, "float32", (0.0,), (1.0,), rgb=False, percentiles=(1.0, 99.0))
    low, high = np.percentile(array[8:], (1, 99))
    found = of_array(array, form).numpy()
    assert found[8:] == pytest.approx(((array[8:] - low) / (high - low)).clip(0, 1), abs=1e-5)
    assert found[:8] == pytest.approx(0, abs=1e-6)


def test_an_images_own_percentiles_are_stretched() -> None:
    array = numbers("uint16", 40, 35, 2)
    form = Pixels(2, "uint16", low=(100.0,), high=(60000.0,), rgb=False, percentiles=(1.0, 99.0))
    found = decode(npy(array), Bounds(form=form)).numpy().astype(np.float64)
    for c in range(2):
        low, high = np.percentile(array[..., c], (1, 99))
        wanted = np.clip((array[..., c] - low) / (high - low), 0, 1) * 59900 + 100
        assert np.abs(found[..., c] - wanted).max() <= 0.51
    rgb = numbers("uint8", 40, 35, 3, most=90)
    stretched = decode(saved(Image.fromarray(rgb)), Bounds(form=Pixels(percentiles=(0.0, 100.0)))).numpy()
    assert np.abs(stretched - rgb * (255 / rgb.max())).max() <= 0.51


def test_arrays_as_rgb() -> None:
    bands = numbers("uint8", 40, 35, 4)
    assert np.array_equal(decode(npy(bands)).numpy(), bands[..., :3])
    sixteen = numbers("uint16", 40, 35)
    png = saved(Image.fromarray(sixteen))
    assert torch.equal(decode(npy(sixteen)), decode(png))
    floats = np.random.default_rng(0).random((40, 35), np.float32)
    assert torch.equal(decode(npy(floats)), decode(saved(Image.fromarray(floats), "TIFF")))
    signed = numbers("int16", 40, 35)
    span = int(signed.max()) - int(signed.min())
    wanted = (signed.astype(np.float64) - signed.min()) * 255 / span
    assert np.abs(decode(npy(signed)).numpy()[..., 0] - wanted).max() <= 0.51


class Program:
    """Pickled, it would run when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("form", [None, RGB])
def test_arrays_that_lie_are_refused_before_data_is_read(
    form: Pixels | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scene, "MOST_DECODED", 1 << 20)
    huge, zeros, two = BytesIO(), BytesIO(), BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<u2", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    np.savez_compressed(zeros, np.zeros((9, 9, 200, 50), np.uint16))  # 1.5 MiB
    np.savez(two, a=np.zeros(3), b=np.zeros(3))
    faults = {
        "cut short: 99 of": huge.getvalue() + b"0" * 99,
        "1 MiB decoded are more than 1; --tile": zeros.getvalue(),
        "2 arrays, none of them called image": two.getvalue(),
        "an array of Python objects is not read": npy(np.array([Program()], dtype=object)),
        "complex128 is not read": npy(np.zeros((9, 9), complex)),
        r"shape \[0, 9\] is empty": npy(np.zeros((0, 9))),
        "is no picture": npy(np.zeros((2, 2, 2, 2, 2))),
    }
    for reason, data in faults.items():
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(data, Bounds(form=form))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_scene_is_refused_as_a_whole_and_read_in_windows(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:  # 40 GB, nearly all of it a hole
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<u2", "fortran_order": False, "shape": (100_000, 200_000)}
        )
        start = file.tell()
        for row in range(2):
            file.seek(start + 2 * (200_000 * (99_998 + row) + 199_998))
            file.write(np.array([7 + row, 9], "<u2").tobytes())
    with pytest.raises(UnreadableImage, match="200000x100000 pixels are more than 89478485; --tile reads parts"):
        decode(tmp_path / "a.npy", STORED)
    window = decode(tmp_path / "a.npy", STORED, part=Part(0, Window(99_997, 199_998, 3, 2)))
    assert window[..., 0].tolist() == [[0, 0], [7, 9], [8, 9]]
    with pytest.raises(UnreadableImage, match="empty: all its pixels are equal"):
        decode(tmp_path / "a.npy", STORED, part=Part(0, Window(5, 5, 256, 256)))


class TestTransparencyThatIsAChannel:
    """Where as many channels are asked for as there are with it; else it is laid on white."""

    def check(self, data: bytes, stored: Array) -> None:
        channels = stored.shape[2]
        form = Pixels(channels, stored.dtype.name, (0,), (9,), rgb=False)  # type: ignore[arg-type]
        window = Part(0, Window(1, 2, 3, 4))
        for bounds in (Bounds(form=form), Bounds(form=None, asked=channels)):
            assert np.array_equal(decode(data, bounds).numpy(), stored)
            assert np.array_equal(decode(data, bounds, part=window).numpy(), stored[1:4, 2:6])
        laid = on_white(stored)
        for bounds in (STORED, Bounds(form=None, asked=channels - 1)):
            assert np.array_equal(decode(data, bounds).numpy(), laid)

    @pytest.mark.parametrize("channels", [2, 4])
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_of_8_bits(self, kind: str, channels: int) -> None:
        stored = numbers("uint8", 20, 30, channels)
        if kind == "WEBP" and channels == 2:
            pytest.skip("WebP has no grey")
        image = Image.fromarray(stored, "LA" if channels == 2 else "RGBA")
        self.check(saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), stored)

    def test_of_a_deep_png(self) -> None:
        stored = numbers("uint16", 20, 30, 4)
        self.check(deep_png(stored), stored)

    def test_of_a_tiff_by_tifffile(self) -> None:
        library = pytest.importorskip("tifffile", reason="needs the extra tiff")
        stored, whole = numbers("uint8", 20, 30, 4), BytesIO()
        library.imwrite(whole, stored, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
        self.check(whole.getvalue(), stored)

    def test_of_heic(self) -> None:
        library = pytest.importorskip("pillow_heif", reason="needs the extra heic")
        smooth = np.add.outer(np.arange(64), np.arange(64))[..., None] + np.array([0, 30, 60, 90])
        whole = BytesIO()
        library.from_pillow(Image.fromarray(smooth.astype(np.uint8))).save(whole, quality=-1)
        found = decode(whole.getvalue(), Bounds(form=None, asked=4)).numpy().astype(int)
        assert found.shape == (64, 64, 4)
        assert np.abs(found - smooth).max() <= 4
        assert decode(whole.getvalue(), STORED).shape == (64, 64, 3)
