"""Lossless JPEG, JPEG of 12 bits and JPEG-LS in DICOM, by imagecodecs: a plug-in of pydicom that no other program gets.

imagecodecs calls libjpeg-turbo and CharLS, which believe a frame's own header: it is compared with that of the file.
"""

import importlib
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

NAME = "hardviews"  # of the plug-in
DECODER_DEPENDENCIES: dict[str, tuple[str, ...]] = {}  # pydicom asks for it
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers that nothing belongs to
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of a frame's header; 0xF7 is JPEG-LS
_LS = 0xF7


def plug_in(syntax: str) -> None:
    """Tells pydicom of the plug-in, once for every transfer syntax.

    Raises:
        ValueError: imagecodecs is not installed.
    """
    if find_spec("imagecodecs") is None:
        raise ValueError(f"stored as {_named(syntax)}, which needs imagecodecs: pip install 'hardviews[dicom]'")
    pixels: Any = importlib.import_module("pydicom.pixels")
    decoder = pixels.get_decoder(syntax)
    with suppress(ValueError):  # it has it
        decoder.add_plugin(NAME, (__name__, decoded.__name__))


def is_available(uid: str) -> bool:
    """pydicom asks when the plug-in is added."""
    return True


def decoded(data: bytes, runner: Any) -> bytes:
    """A frame, its channels side by side, without a change of colours.

    Args:
        data: the encoded frame.
        runner: pydicom's, which knows what the file claims.

    Raises:
        ValueError: the frame claims other pixels than the file.
        Exception: of imagecodecs, for a damaged frame.
    """
    codecs: Any = importlib.import_module("imagecodecs")
    kind, bits, *shape = _header(data)
    claimed = [runner.rows, runner.columns, runner.samples_per_pixel]
    if shape != claimed or bits > runner.bits_allocated:
        words = [f"{width}x{height} pixels, {channels} channels" for height, width, channels in (shape, claimed)]
        raise ValueError(f"a frame of {words[0]}, {bits} bits in a file of {words[1]}, {runner.bits_allocated} bits")
    if kind == _LS:
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # CharLS may then read on for hours
            raise ValueError("a frame is cut short")
        array = codecs.jpegls_decode(data)
    else:
        space = {"colorspace": "RGB", "outcolorspace": "RGB"} if shape[2] == 3 else {}  # the file says what they are
        array = codecs.jpeg8_decode(data, **space)
    if shape[2] > 1:
        runner.set_option("planar_configuration", 0)
    return bytes(array.astype(f"<u{runner.bits_allocated // 8}").tobytes())


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    """Of a frame its marker, bits, height, width and channels."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 9 < len(data):
        kind = data[at + 1]
        if kind in _FRAMES:
            height, width = (int.from_bytes(data[place : place + 2], "big") for place in (at + 5, at + 7))
            return kind, data[at + 4], height, width, data[at + 9]
        # A marker may be preceded by any number of bytes of ones.
        at += 1 if kind == 0xFF else 2 if kind in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("a frame without a header")


def _named(syntax: str) -> str:
    library: Any = importlib.import_module("pydicom")
    return str(library.uid.UID(syntax).name)
