"""Which reader a file has: by its first bytes, or as a folder by its name; and which extra brings it."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hardviews.data.reading.formats.deep_png import deep_png, is_deep
from hardviews.data.reading.formats.dicom import dicom, is_dicom
from hardviews.data.reading.formats.heic import heic, is_heic
from hardviews.data.reading.formats.npy import npy, npz
from hardviews.data.reading.formats.scene import Content, Opener
from hardviews.data.reading.formats.tiff import is_tiff, tiff
from hardviews.data.reading.formats.zarr import zarr

START = 132  # first bytes of a file that tell its format


class Format(NamedTuple):
    """A format that Pillow does not open, or not as it is stored.

    Args:
        extensions: of its files, in small letters.
        matches: first bytes of a file → whether they are of this format.
        opener: opens a file or its bytes.
        module: that reads it, and must be installed; empty for none.
        extra: of ``pyproject.toml``, which brings the module.
    """

    extensions: tuple[str, ...]
    matches: Callable[[bytes], bool]
    opener: Opener
    module: str = ""
    extra: str = ""


FORMATS = (
    Format((".npy",), lambda start: start.startswith(b"\x93NUMPY"), npy),
    Format((".npz",), lambda start: start.startswith(b"PK\3\4"), npz),
    Format((".dcm", ".dicom"), is_dicom, dicom, "pydicom", "dicom"),
    Format((".heic", ".heif", ".hif"), is_heic, heic, "pillow_heif", "heic"),
)
TIFF = Format(
    (), is_tiff, tiff, "tifffile", "tiff"
)  # Pillow reads most of these files, and their extensions are its own
ZARR = Format((".zarr",), lambda _: False, zarr, "zarr", "zarr")


@cache
def installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    return not module or importlib.util.find_spec(module) is not None


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f"pip install 'hardviews[{extra}]'"


def is_store(content: Content) -> bool:
    """Whether this is a folder that holds one image, by its name."""
    return not isinstance(content, bytes) and str(content).lower().endswith(ZARR.extensions)


def opener_of(content: Content, as_stored: bool) -> Opener | None:
    """What opens a file that Pillow does not open, or not as it is stored or in windows; None if Pillow does.

    Raises:
        ValueError: it needs an extra, which is not installed.
    """
    start = content[:START] if isinstance(content, bytes) else started(content)
    known = ZARR if is_store(content) else next((known for known in FORMATS if known.matches(start)), None)
    if known is not None:
        if not installed(known.module):
            raise ValueError(f"{known.extensions[0]} needs {known.module}: {install(known.extra)}")
        return known.opener
    if TIFF.matches(start):
        return TIFF.opener if installed(TIFF.module) else None
    return deep_png if as_stored and is_deep(start) else None


def started(path: str | Path) -> bytes:
    """The first bytes of a file; none of what can't be opened, of which its reader tells."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(START)
    except (OSError, ValueError):
        return b""
