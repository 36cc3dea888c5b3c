"""NumPy's ``.npy`` and ``.npz``: nothing is unpickled, and the header is checked before any data is read."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardviews.data.reading.formats.layout import guessed
from hardviews.data.reading.formats.scene import Content, Scene, check_bytes
from hardviews.data.reading.forms import Array

_KEY = "image.npy"  # the member of a .npz that holds the image, where there are several
_HEADER = 1 << 14  # bytes in which a header must end; numpy refuses longer ones


class _Header(NamedTuple):
    shape: tuple[int, ...]
    columns_first: bool  # Fortran's order
    dtype: np.dtype[Any]
    start: int

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def shaped(self, numbers: Array) -> Array:
        return numbers.reshape(self.shape, order="F" if self.columns_first else "C")


@contextmanager
def npy(content: Content) -> Iterator[Scene]:
    """A ``.npy``, which is mapped: only what is asked for is read."""
    if isinstance(content, bytes):
        header = _header(content[:_HEADER])
        _check_present(header, len(content) - header.start)
        yield _scene(header.shaped(np.frombuffer(content, header.dtype, prod(header.shape), header.start)))
        return
    with Path(content).open("rb") as file:
        header = _header(file.read(_HEADER))
        _check_present(header, Path(content).stat().st_size - header.start)
    order = "F" if header.columns_first else "C"
    yield _scene(np.memmap(content, header.dtype, "r", header.start, header.shape, order))  # type: ignore[call-overload]


@contextmanager
def npz(content: Content) -> Iterator[Scene]:
    """A ``.npz`` of one array, or with one called ``image``, which is read as a whole."""
    with zipfile.ZipFile(BytesIO(content) if isinstance(content, bytes) else content) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        name = _KEY if _KEY in names else names[0] if len(names) == 1 else ""
        if not name:
            raise ValueError(f"{len(names)} arrays, none of them called image")
        with archive.open(name) as member:
            header = _header(member.read(_HEADER))
        check_bytes(header.bytes)
        with archive.open(name) as member:
            member.read(header.start)
            data = member.read(header.bytes)
        _check_present(header, len(data))
        yield _scene(
            np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.columns_first else "C")
        )


def _scene(array: Array) -> Scene:
    layout = guessed(array.shape)
    return Scene(
        layout.frames, layout.size("Y"), layout.size("X"), lambda frame, window: layout.cut(array, frame, window)
    )


def _header(start: bytes) -> _Header:
    file = BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # later ones name fields, and pixels have none
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject or dtype.names is not None or dtype.kind not in "buif":
        raise ValueError(f"an array of {'Python objects' if dtype.hasobject else dtype} is not read")
    return _Header(shape, columns_first, dtype, file.tell())


def _check_present(header: _Header, there: int) -> None:
    if min(header.shape, default=0) < 1:
        raise ValueError(f"an array of shape {list(header.shape)} is empty")
    if header.bytes > there:
        raise ValueError(f"cut short: {max(there, 0)} of {header.bytes} bytes of data")
