"""DICOM, by pydicom: of its decoders, its own for uncompressed and RLE data and those that call Pillow or
``dicom_jpeg.py``."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hardviews.data.reading.formats import dicom_jpeg
from hardviews.data.reading.formats.scene import Content, Scene, Window, check_bytes, check_pixels, in_short
from hardviews.data.reading.forms import Array

_OWN, _PILLOW, _JPEG = "pydicom", "pillow", dicom_jpeg.NAME
# The end of a transfer syntax's UID → the plug-in that decodes it; no other is ever called. Deflated files are refused:
# they are unpacked as a whole, to any size.
_DECODERS = {
    "": "", ".1": "", ".2": "",  # uncompressed
    ".5": _OWN,  # run lengths
    ".4.50": _PILLOW, ".4.51": _PILLOW, ".4.90": _PILLOW, ".4.91": _PILLOW,  # JPEG of 8 bits, JPEG 2000
    ".4.57": _JPEG, ".4.70": _JPEG, ".4.80": _JPEG, ".4.81": _JPEG,  # lossless JPEG, JPEG-LS
}  # fmt: skip
_UID = "1.2.840.10008.1.2"
_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)


def is_dicom(start: bytes) -> bool:
    """By the prefix after the preamble."""
    return start[128:132] == b"DICM"


@contextmanager
def dicom(content: Content) -> Iterator[Scene]:
    """Frames of a DICOM file.

    Values are rescaled by slope and intercept (or the modality's table) where the file has them, and then are floats.
    MONOCHROME1 is inverted within the bits stored, so that more is brighter. Colours become RGB of 8 bits. ``shown`` is
    the file's window, else the range of the bits stored.
    """
    # It reports on every odd header; what matters is raised.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with BytesIO(content) if isinstance(content, bytes) else Path(content).open("rb") as file:
        header, plugin = _header(file)
        kind = str(header.get("PhotometricInterpretation", ""))
        height, width = int(header.Rows), int(header.Columns)
        bits, samples = int(header.BitsAllocated), int(header.get("SamplesPerPixel", 1))

        def read(frame: int, at: Window) -> Array:
            check_pixels(height, width)  # a frame is decoded as a whole
            check_bytes(height, width, samples, -(-bits // 8))
            pixels: Any = importlib.import_module("pydicom.pixels")
            with _damage(plugin):
                array: Array = pixels.pixel_array(file, index=frame, decoding_plugin=plugin)
            array = array[at.top : at.top + at.height, at.left : at.left + at.width]
            if kind == "PALETTE COLOR":
                array = pixels.apply_color_lut(array, header)[..., :3]
                return (array >> 8).astype(np.uint8) if array.dtype.itemsize > 1 else array
            if array.ndim == 3:
                return array
            if kind == "MONOCHROME1" and array.dtype.kind in "ui":
                array = sum(_span(header)) - array.astype(np.int64)
                if bits <= 16:
                    unsigned = _span(header)[0] == 0
                    array = array.astype(np.min_scalar_type(0 if bits <= 8 else 256) if unsigned else np.int16)
            return pixels.apply_modality_lut(array, _scaling(header, frame))[..., None]  # type: ignore[no-any-return]

        frames = int(header.get("NumberOfFrames", 1) or 1)
        yield Scene(max(1, frames), height, width, read, None if samples > 1 else _shown(header))


@contextmanager
def _damage(plugin: str) -> Iterator[None]:
    """Says of an error of a decoder what is damaged, without what pydicom puts before it."""
    try:
        yield
    except Exception as error:  # they raise any kind
        text = in_short(" ".join(str(error).split()).split(f" {plugin}: ", 1)[-1] or error)
        cut = "cannot reshape" in text or "less than the expected" in text
        raise ValueError("cut short: pixels are missing at its end" if cut else f"damaged ({text})") from None


def _header(file: BinaryIO) -> tuple[Any, str]:
    """The elements that say what the pixels are, and the decoder's name. Values of others are skipped."""
    library: Any = importlib.import_module("pydicom")
    reading: Any = importlib.import_module("pydicom.filereader")
    tags: Any = importlib.import_module("pydicom.tag")
    reading.read_preamble(file, False)
    meta = reading.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = library.uid.UID(str(meta.get("TransferSyntaxUID", "")))
    plugin = _DECODERS.get(syntax.removeprefix(_UID)) if syntax.startswith(_UID) else None
    if not syntax:
        raise ValueError("does not say how its pixels are stored (it has no transfer syntax)")
    if syntax.name == syntax:  # one that pydicom does not know
        raise ValueError(f"damaged (it is stored by an unknown transfer syntax, {str(syntax)[:40]!r})")
    if plugin is None:
        raise ValueError(f"stored as {syntax.name}, which is not read: store it uncompressed (gdcmconv --raw)")
    header = reading.read_dataset(
        file,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, *_: tag >> 16 >= 0x7FE0,
        specific_tags=[tags.Tag(name) for name in _TAGS],
    )
    if "Rows" not in header or "Columns" not in header or "BitsAllocated" not in header:
        raise ValueError("a DICOM file without a picture, or cut short")
    if syntax == f"{_UID}.4.51" and int(header.get("BitsStored", header.BitsAllocated)) > 8:  # Pillow reads 8 bits
        plugin = _JPEG
    if plugin == _JPEG:
        dicom_jpeg.plug_in(syntax)
    return header, plugin


def _span(header: Any) -> tuple[int, int]:
    """The least and most number that the bits stored can hold."""
    bits = int(header.get("BitsStored", header.BitsAllocated))
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if header.get("PixelRepresentation", 0) else (0, (1 << bits) - 1)


def _scaling(header: Any, frame: int) -> Any:
    """What holds slope and intercept: the frame's group, the shared group, or the file."""
    for groups, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = header.get(groups) or []
        if place < len(sequence) and sequence[place].get("PixelValueTransformationSequence"):
            return sequence[place].PixelValueTransformationSequence[0]
    return header


def _shown(header: Any) -> tuple[float, float]:
    """The values that become black and white: the file's first window, else what the bits stored can hold."""
    scaling = _scaling(header, 0)
    slope, intercept = float(scaling.get("RescaleSlope", 1)), float(scaling.get("RescaleIntercept", 0))
    least, most = sorted(value * slope + intercept for value in _span(header))
    centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 1 or header.PhotometricInterpretation == "MONOCHROME1":
        return least, most
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2  # PS3.3, C.11.2.1.2.1


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
