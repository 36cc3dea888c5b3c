"""pydicom's own samples, and files that pydicom writes, against numbers computed by hand."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardviews.data.reading.decode import Bounds, Part, UnreadableImage, Window, decode, extent_of
from hardviews.data.reading.formats import dicom_jpeg
from hardviews.views.pixels import Pixels
from tests.data.pixels import STORED, Array, numbers, shift


class TestDicom:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.library: Any = pytest.importorskip("pydicom", reason="needs the extra dicom")

    def sample(self, name: str) -> Path:
        return Path(self.library.__file__).parent / "data" / "test_files" / name

    def written(self, stored: Array, **elements: Any) -> bytes:
        """A file of frames ``[(frames,) h, w]``, uncompressed."""
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        file: Any = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
        bits = 8 * stored.dtype.itemsize
        known = {
            "Rows": stored.shape[-2], "Columns": stored.shape[-1], "SamplesPerPixel": 1, "BitsAllocated": bits,
            "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(stored.dtype.kind == "i"),
            "PhotometricInterpretation": "MONOCHROME2", "PixelData": stored.tobytes(),
        } | ({"NumberOfFrames": len(stored)} if stored.ndim == 3 else {})  # fmt: skip
        for name, value in (known | elements).items():
            setattr(file, name, value)
        file["PixelData"].VR = "OW" if bits > 8 else "OB"
        whole = io.BytesIO()
        self.library.dcmwrite(whole, file, enforce_file_format=True)
        return whole.getvalue()

    def test_a_ct_in_hounsfield_units(self) -> None:
        file = self.sample("CT_small.dcm")
        ct = self.library.dcmread(file)
        raw = np.frombuffer(ct.PixelData, "<i2").reshape(ct.Rows, ct.Columns)
        wanted = raw * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
        for data in (file, file.read_bytes()):
            found = decode(data, STORED)
            assert found.dtype == torch.float32
            assert np.array_equal(found.numpy()[..., 0], wanted)
        form = Pixels(1, "float32", low=(-160.0,), high=(240.0,), rgb=False)
        assert torch.equal(
            form.levels(decode(file, Bounds(form=form))), form.levels(torch.from_numpy(wanted)[..., None])
        )

    def test_slope_and_window(self) -> None:
        stored = numbers("uint16", 20, 30) >> 4
        data = self.written(stored, RescaleSlope="0.5", RescaleIntercept="-100", BitsStored=12, HighBit=11)
        assert np.array_equal(decode(data, STORED).numpy()[..., 0], (stored * 0.5 - 100).astype(np.float32))
        shown = np.clip((stored * 0.5) * 255 / (4095 * 0.5), 0, 255)  # the range of the bits stored
        assert np.abs(shift(decode(data))[..., 0] - shown).max() <= 0.51
        data = self.written(stored, WindowCenter=["1000", "3"], WindowWidth=["501", "3"], BitsStored=12, HighBit=11)
        shown = np.clip((stored.astype(float) - 749.5) * 255 / 500, 0, 255)
        assert np.abs(shift(decode(data))[..., 0] - shown).max() <= 0.51
        assert decode(data, STORED).dtype == torch.uint16

    def test_more_is_brighter(self) -> None:
        stored = numbers("uint16", 20, 30) >> 4
        data = self.written(stored, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
        found = decode(data, STORED)
        assert found.dtype == torch.uint16
        assert np.array_equal(found.numpy()[..., 0], 4095 - stored)
        signed = numbers("int16", 20, 30)
        data = self.written(signed, PhotometricInterpretation="MONOCHROME1")
        assert np.array_equal(decode(data, STORED).numpy()[..., 0], -1 - signed.astype(np.int32))
        for dtype, most in (("uint32", 2**32 - 1), ("int32", -1)):  # read as floats, as all numbers of 32 bits
            wide = numbers(dtype, 20, 30)
            data = self.written(wide, PhotometricInterpretation="MONOCHROME1")
            assert decode(data, STORED).dtype == torch.float32
            assert np.array_equal(
                decode(data, STORED).numpy()[..., 0], (most - wide.astype(np.int64)).astype("float32")
            )
        eight = self.written(numbers("uint8", 20, 30), PhotometricInterpretation="MONOCHROME1")
        assert np.array_equal(decode(eight, STORED).numpy()[..., 0], 255 - numbers("uint8", 20, 30))

    def test_frames(self) -> None:
        stored = numbers("int16", 5, 20, 30)
        data = self.written(stored)
        assert extent_of(data) == (5, 20, 30)
        for frame in range(5):
            assert np.array_equal(decode(data, STORED, part=Part(frame)).numpy()[..., 0], stored[frame])
        window = decode(data, STORED, part=Part(3, Window(2, 4, 8, 9)))
        assert np.array_equal(window.numpy()[..., 0], stored[3, 2:10, 4:13])

    def test_a_slope_for_every_frame(self) -> None:
        from pydicom.dataset import Dataset

        def group(slope: float) -> Any:
            values, outer = Dataset(), Dataset()
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, 1, "US"
            outer.PixelValueTransformationSequence = [values]
            return outer

        stored = numbers("uint16", 2, 8, 9) >> 8
        data = self.written(stored, PerFrameFunctionalGroupsSequence=[group(2), group(3)])
        for frame in range(2):
            found = decode(data, STORED, part=Part(frame)).numpy()[..., 0]
            assert np.array_equal(found, stored[frame] * (2.0 + frame) + 1)

    @pytest.mark.parametrize(
        ("name", "reference", "tolerance"),
        [
            ("MR_small_RLE.dcm", "MR_small.dcm", 0),
            ("MR_small_jp2klossless.dcm", "MR_small.dcm", 0),
            ("MR_small_bigendian.dcm", "MR_small.dcm", 0),
            ("MR_small_implicit.dcm", "MR_small.dcm", 0),
            ("SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm", 0),
            ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_gdcm_KY.dcm", 6),
            ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_gdcm_KY.dcm", 6),
        ],
    )
    def test_compressions_and_colours(self, name: str, reference: str, tolerance: int) -> None:
        found, wanted = decode(self.sample(name), STORED), decode(self.sample(reference), STORED)
        assert found.dtype == wanted.dtype
        assert np.abs(shift(found) - shift(wanted)).max() <= tolerance
        raw = self.library.dcmread(self.sample("MR_small.dcm")).PixelData
        assert decode(self.sample("MR_small.dcm"), STORED).numpy().tobytes() == raw

    def test_a_palette(self) -> None:
        if not self.sample("examples_palette.dcm").exists():
            pytest.skip("this version of pydicom has no such sample")
        file = self.library.dcmread(self.sample("examples_palette.dcm"))
        tables = [
            np.frombuffer(getattr(file, f"{c}PaletteColorLookupTableData"), "<u2") for c in ("Red", "Green", "Blue")
        ]
        index = np.frombuffer(file.PixelData, np.uint8).reshape(file.Rows, file.Columns)
        wanted = np.stack([entries[index] >> 8 for entries in tables], axis=2)
        assert np.array_equal(decode(self.sample("examples_palette.dcm"), STORED).numpy(), wanted)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("image_dfl.dcm", "stored as Deflated Explicit VR Little Endian, which is not read"),
            ("meta_missing_tsyntax.dcm", "does not say how its pixels are stored"),
            ("reportsi.dcm", "a DICOM file without a picture, or cut short"),
            ("no_meta.dcm", "not a picture of a known format"),
            ("MR_truncated.dcm", "cut short: pixels are missing at its end"),
        ],
    )
    def test_what_is_not_read_says_why(self, name: str, message: str) -> None:
        with pytest.raises(UnreadableImage, match=message) as caught:
            decode(self.sample(name), STORED)
        assert "\n" not in str(caught.value)

    def encapsulated(self, syntax: str, frames: list[bytes], like: Array, **elements: Any) -> bytes:
        """A file of frames that are encoded already, each of the shape of ``like``, ``[h, w]`` or ``[h, w, 3]``."""
        from pydicom.encaps import encapsulate

        file: Any = self.library.dcmread(io.BytesIO(self.written(like[..., 0] if like.ndim == 3 else like)))
        file.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
        file.PixelData, file.NumberOfFrames = encapsulate(frames), len(frames)
        if like.ndim == 3:
            file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
        for name, value in elements.items():
            setattr(file, name, value)
        file["PixelData"].is_undefined_length = True
        whole = io.BytesIO()
        self.library.dcmwrite(whole, file, enforce_file_format=True)
        return whole.getvalue()

    @pytest.mark.parametrize("syntax", ["57", "70", "80"])
    @pytest.mark.parametrize("kind", ["uint8", "12 of 16 bits", "uint16", "int16", "RGB"])
    def test_lossless_jpeg(self, syntax: str, kind: str) -> None:
        """Against the numbers that were encoded; the second of two frames."""
        codecs = pytest.importorskip("imagecodecs", reason="needs the extra dicom")
        stored = numbers("uint8", 20, 31, 3) if kind == "RGB" else numbers(kind if "int" in kind else "uint16", 20, 31)
        elements: dict[str, Any] = {}
        if kind == "12 of 16 bits":
            stored, elements = stored >> 4, {"BitsStored": 12, "HighBit": 11}
        if kind == "int16":
            elements = {"PixelRepresentation": 1}
        raw = stored.view("uint16") if kind == "int16" else stored
        lossless: dict[str, Any] = {"lossless": True, "predictor": 1 if syntax == "70" else 4}
        lossless |= {"bitspersample": 12} if kind == "12 of 16 bits" else {}
        lossless |= {"colorspace": "RGB", "outcolorspace": "RGB"} if kind == "RGB" else {}
        frames = [
            codecs.jpegls_encode(frame) if syntax == "80" else codecs.jpeg8_encode(frame, **lossless)
            for frame in (raw[::-1].copy(), raw)
        ]
        data = self.encapsulated(syntax, frames, stored, **elements)
        found = decode(data, STORED, part=Part(1)).numpy()
        assert found.dtype == stored.dtype
        assert np.array_equal(found, stored if stored.ndim == 3 else stored[..., None])

    def test_jpeg_of_12_bits(self) -> None:
        codecs = pytest.importorskip("imagecodecs", reason="needs the extra dicom")
        smooth = (np.add.outer(np.arange(40), np.arange(60)) * 40).astype("uint16")
        frame = codecs.jpeg8_encode(smooth, level=98, bitspersample=12)
        data = self.encapsulated("51", [frame], smooth, BitsStored=12, HighBit=11)
        found = decode(data, STORED)
        assert found.dtype == torch.uint16
        assert np.abs(shift(found)[..., 0] - smooth.astype(float)).max() <= 12

    @pytest.mark.parametrize(("side", "channels", "bits"), [(3000, 1, 8), (31, 3, 8), (31, 1, 16)])
    def test_a_frame_that_claims_other_pixels_than_its_file_is_not_decoded(
        self, side: int, channels: int, bits: int
    ) -> None:
        codecs = pytest.importorskip("imagecodecs", reason="needs the extra dicom")
        frame = np.zeros((side, side, channels)[: 2 if channels == 1 else 3], f"uint{bits}")
        for syntax, data in (("70", codecs.jpeg8_encode(frame, lossless=True)), ("80", codecs.jpegls_encode(frame))):
            with pytest.raises(UnreadableImage, match=rf"damaged \(a frame of {side}x{side} pixels"):
                decode(self.encapsulated(syntax, [data], numbers("uint8", 31, 31)), STORED)

    def test_jpeg_ls_without_an_end_is_refused(self) -> None:
        """CharLS does not come back from some of them."""
        whole = self.sample("JPEGLSNearLossless_16.dcm").read_bytes()
        start, length = whole.index(b"\xff\xd8\xff\xf7"), 150
        for kept in (66, 80, 100):
            data = whole[: start + kept] + bytes(length - kept) + whole[start + length :]
            with pytest.raises(UnreadableImage, match=r"damaged \(a frame is cut short\)"):
                decode(data, STORED)

    def test_lossless_jpeg_without_imagecodecs_says_what_brings_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dicom_jpeg, "find_spec", lambda _: None)
        with pytest.raises(UnreadableImage, match=r"JPEG-LS .* needs imagecodecs: pip install 'hardviews\[dicom\]'"):
            decode(self.sample("MR_small_jpeg_ls_lossless.dcm"), STORED)

    def test_no_other_decoder_is_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where one is installed that pydicom would call first."""
        from pydicom.pixels.decoders.base import RLELosslessDecoder

        def spoil(*arguments: Any) -> Any:
            raise AssertionError("called")

        monkeypatch.setitem(RLELosslessDecoder._available, "pylibjpeg", spoil)
        assert decode(self.sample("MR_small_RLE.dcm"), STORED).shape == (64, 64, 1)

    def test_claims_are_refused_before_pixels_are_made(self) -> None:
        data = self.written(numbers("uint8", 20, 30), Rows=60000, Columns=60000)
        with pytest.raises(UnreadableImage, match="60000x60000 pixels are more than 89478485"):
            decode(data, STORED)
        with pytest.raises(UnreadableImage, match="60000x60000 pixels are more than"):
            decode(data, STORED, part=Part(0, Window(0, 0, 8, 8)))
