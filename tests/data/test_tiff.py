"""GeoTIFF, BigTIFF and OME-TIFF, as tifffile writes them: bands, windows, stacks, and what Pillow reads too."""

import io
from pathlib import Path
from typing import Any
from zlib import compress

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.reading.decode import Part, UnreadableImage, Window, decode, extent_of
from hardviews.data.reading.formats import scene, table
from tests.data.pixels import STORED, Array, numbers, ramps, shift

# Tags of a GeoTIFF: size of a pixel, and the value that stands for no data.
GEO = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (42113, "s", 0, "-9999", True)]


class TestTiff:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.library: Any = pytest.importorskip("tifffile", reason="needs the extra tiff")
        pytest.importorskip("imagecodecs", reason="needs the extra tiff")

    def written(self, array: Array, **options: Any) -> bytes:
        whole = io.BytesIO()
        self.library.imwrite(whole, array, **{"photometric": "minisblack", **options})
        return whole.getvalue()

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"tile": (16, 32), "extratags": GEO},
            {"tile": (16, 32), "compression": "zlib", "predictor": True},
            {"rowsperstrip": 7, "compression": "lzw"},
            {"rowsperstrip": 7, "compression": "zstd", "bigtiff": True},
            {"byteorder": ">", "compression": "packbits"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("separate", [False, True])
    def test_bands_of_every_type(self, options: dict[str, Any], separate: bool, tmp_path: Path) -> None:
        for channels, dtype in ((3, "uint16"), (4, "uint8"), (13, "uint16"), (2, "int16"), (5, "float32")):
            array = numbers(dtype, 50, 70, channels)
            stored = array.transpose(2, 0, 1) if separate else array
            data = self.written(stored, planarconfig="separate" if separate else "contig", **options)
            (tmp_path / "a.tif").write_bytes(data)
            for content in (data, tmp_path / "a.tif"):
                assert np.array_equal(decode(content, STORED).numpy(), array)
                window = decode(content, STORED, part=Part(0, Window(13, 29, 20, 30)))
                assert np.array_equal(window.numpy(), array[13:33, 29:59])
            assert extent_of(data) == (1, 50, 70)

    def test_what_pillow_reads_is_read_alike(self) -> None:
        picture = Image.fromarray(numbers("uint8", 50, 70, 3))
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"):
            for compression in ("raw", "tiff_lzw"):
                whole = io.BytesIO()
                picture.convert(mode).save(whole, "TIFF", compression=compression)
                rgb, found = decode(whole.getvalue()), decode(whole.getvalue(), STORED)
                assert found.shape[2] == (1 if mode in ("L", "LA", "1") else 3), mode
                assert torch.equal(found.expand_as(rgb), rgb), mode
                tile = Part(0, Window(16, 16, 16, 16))
                assert torch.equal(decode(whole.getvalue(), part=tile), rgb[16:32, 16:32]), mode
        inverted = self.written(numbers("uint8", 50, 70), photometric="miniswhite")
        assert torch.equal(decode(inverted, STORED).expand(-1, -1, 3), decode(inverted))
        deep = self.written(numbers("uint16", 50, 70), photometric="miniswhite")
        assert np.array_equal(decode(deep, STORED).numpy()[..., 0], 65535 - numbers("uint16", 50, 70))

    @pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
    def test_tiles_in_jpeg(self, photometric: str) -> None:
        data = self.written(ramps(), photometric=photometric, compression="jpeg", tile=(32, 32))
        whole = decode(data, STORED)
        if photometric == "rgb":
            assert np.abs(shift(whole) - ramps()).mean() < 4
        assert np.array_equal(whole.numpy(), self.library.imread(io.BytesIO(data)))
        assert torch.equal(whole, decode(data))  # by Pillow
        assert torch.equal(decode(data, STORED, part=Part(0, Window(10, 20, 30, 40))), whole[10:40, 20:60])

    def test_more_samples_are_bands_unless_the_file_says_alpha(self) -> None:
        four = numbers("uint8", 50, 70, 4)
        bands = self.written(four, photometric="rgb", extrasamples=["unspecified"])
        assert np.array_equal(decode(bands, STORED).numpy(), four)
        assert np.array_equal(decode(bands).numpy(), four[..., :3])
        wide = four.astype(np.float64)
        opaque = wide[..., 3:] / 255
        unassociated = self.written(four, photometric="rgb", extrasamples=["unassalpha"])
        wanted = wide[..., :3] * opaque + 255 * (1 - opaque)
        assert np.abs(decode(unassociated, STORED).numpy() - wanted).max() <= 1
        small = (wide * [*[opaque[..., 0].min()] * 3, 1]).astype("uint8")
        small[..., :3] = np.minimum(small[..., :3], small[..., 3:])
        associated = self.written(small, photometric="rgb", extrasamples=["assocalpha"])
        wanted = small[..., :3].astype(np.float64) + 255 - small[..., 3:]
        assert np.abs(decode(associated, STORED).numpy() - wanted).max() <= 1
        deep = numbers("uint16", 50, 70, 4)  # of which writers say alpha without being asked
        assert np.array_equal(decode(self.written(deep, photometric="rgb", extrasamples=["unassalpha"]), STORED), deep)
        assert np.array_equal(decode(self.written(deep, photometric="rgb"), STORED).numpy(), deep)
        five = numbers("uint16", 50, 70, 5)
        assert np.array_equal(decode(self.written(five, planarconfig="contig"), STORED).numpy(), five)

    @pytest.mark.parametrize("kind", ["ome", "ome tiled", "imagej"])
    def test_stacks_are_slices_and_channels_channels(self, kind: str) -> None:
        stack = numbers("uint16", 3, 4, 2, 50, 70)  # T, C, Z
        if kind == "imagej":
            data = self.written(stack.transpose(0, 2, 1, 3, 4), imagej=True, metadata={"axes": "TZCYX"})
        else:
            tiled = {"tile": (16, 16), "compression": "zlib"} if "tiled" in kind else {}
            data = self.written(stack, ome=True, metadata={"axes": "TCZYX"}, **tiled)
        assert extent_of(data) == (6, 50, 70)
        for frame in range(6):
            wanted = stack[frame // 2, :, frame % 2].transpose(1, 2, 0)
            assert np.array_equal(decode(data, STORED, part=Part(frame)).numpy(), wanted)
            window = decode(data, STORED, part=Part(frame, Window(3, 20, 30, 31)))
            assert np.array_equal(window.numpy(), wanted[3:33, 20:51])
        many = numbers("uint16", 40, 16, 16)
        assert extent_of(self.written(many, ome=True)) == (40, 16, 16)

    def test_a_scene_is_read_window_by_window(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is larger than what may be decoded at once, and nearly all a hole."""
        with self.library.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
            tile = numbers("uint16", 256, 256)
            encoded = compress(tile.tobytes())
            tiles = (encoded if k in (3, 4) else b"" for k in range(128 * 128))
            file.write(tiles, shape=(32768, 32768), dtype=np.uint16, tile=(256, 256), compression="zlib")
        with pytest.raises(
            UnreadableImage, match="32768x32768 pixels are more than 89478485; --tile reads parts of them"
        ):
            decode(tmp_path / "a.tif", STORED)
        monkeypatch.setattr(scene, "MOST_DECODED", 1 << 18)
        window = decode(tmp_path / "a.tif", STORED, part=Part(0, Window(100, 900, 256, 256))).numpy()[..., 0]
        assert np.array_equal(window[:156, :124], tile[100:, 132:])
        assert np.array_equal(window[:156, 124:], tile[100:, :132])
        assert not window[156:].any()
        with pytest.raises(UnreadableImage, match="empty"):
            decode(tmp_path / "a.tif", STORED, part=Part(0, Window(9000, 9000, 256, 256)))
        with pytest.raises(UnreadableImage, match="decoded are more than 0"):
            decode(tmp_path / "a.tif", STORED, part=Part(0, Window(0, 0, 512, 512)))

    def test_claims_are_refused_before_pixels_are_made(self, tmp_path: Path) -> None:
        """Of the sides of a tile, and of the image."""
        data = self.written(numbers("uint8", 2048, 2048), tile=(2048, 2048), compression="zlib")
        claims = {322: "tiles or strips of 1048576x2048 pixels are too large", 323: "strips of 2048x1048576 pixels"}
        for tag, message in (claims | {256: "pixels are more than 89478485", 257: "more than 89478485"}).items():
            (tmp_path / "a.tif").write_bytes(data)
            with self.library.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
                file.pages[0].tags[tag].overwrite(1 << 20, dtype="I")
            part = Part(0, Window(0, 0, 256, 256)) if tag in claims else None
            with pytest.raises(UnreadableImage, match=message):
                decode(tmp_path / "a.tif", STORED, part=part)

    def test_an_ome_tiff_opens_no_other_file(self, tmp_path: Path) -> None:
        self.library.imwrite(tmp_path / "a.ome.tif", numbers("uint8", 8, 8))
        with self.library.TiffFile(tmp_path / "a.ome.tif") as file:
            assert file.pages[0].shape == (8, 8)
        planes = "".join(
            f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
            for z, name in enumerate(("a.ome.tif", "b.ome.tif"))
        )
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image ID="Image:0">'
            '<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1">'
            f"{planes}"
            "</Pixels></Image></OME>"
        )
        self.library.imwrite(tmp_path / "a.ome.tif", numbers("uint8", 8, 8), description=text, metadata=None)
        self.library.imwrite(tmp_path / "b.ome.tif", numbers("uint8", 8, 8, seed=1), metadata=None)
        frames = extent_of(str(tmp_path / "a.ome.tif")).frames
        found = {frame: decode(tmp_path / "a.ome.tif", STORED, part=Part(frame)) for frame in range(1)}
        assert np.array_equal(found[0].numpy()[..., 0], numbers("uint8", 8, 8))
        if frames > 1:
            with pytest.raises(UnreadableImage):
                decode(tmp_path / "a.ome.tif", STORED, part=Part(1))

    def test_without_the_extra_nothing_is_dropped_in_silence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table, "installed", lambda module: not module)
        grey = self.written(numbers("uint16", 9, 7))
        assert np.array_equal(decode(grey, STORED).numpy()[..., 0], numbers("uint16", 9, 7))
        for array, options in (
            (numbers("uint16", 9, 7, 3), {"photometric": "rgb"}),
            (numbers("uint8", 9, 7, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        ):
            data = self.written(array, **options)
            assert decode(data).shape == (9, 7, 3)
            with pytest.raises(UnreadableImage, match=r"bits need tifffile: pip install 'hardviews\[tiff\]'"):
                decode(data, STORED)
