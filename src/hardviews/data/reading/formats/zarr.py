"""Zarr arrays and OME-Zarr in a folder, by zarr. What its metadata asks for is looked at before zarr is."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from hardviews.data.reading.formats.layout import Layout, guessed
from hardviews.data.reading.formats.scene import Content, Scene, Window, check_bytes
from hardviews.data.reading.forms import Array

# Codecs that are called. Others may unpickle, or be brought by any package.
_CODECS = frozenset((
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "shuffle", "delta", "bytes", "endian", "transpose"),
    *("crc32c", "crc32", "adler32", "sharding_indexed", "fixedscaleoffset"),
))  # fmt: skip
_MOST_METADATA = 1 << 20  # bytes


@contextmanager
def zarr(content: Content) -> Iterator[Scene]:
    """An array, or the first one of an OME-Zarr's first image, which is that of full size.

    OME-Zarr names its axes; other arrays are laid out as ``layout.guessed`` says. Chunks are read as they are needed.
    """
    if isinstance(content, bytes):
        raise ValueError("a Zarr array is a folder")
    folder, axes = _array(Path(content))
    meta = _json(folder / "zarr.json") or _json(folder / ".zarray")
    _check_codecs(meta)
    library: Any = importlib.import_module("zarr")
    array = library.open_array(str(folder), mode="r", zarr_format=int(meta["zarr_format"]))
    layout = Layout(axes, tuple(array.shape)) if axes and len(axes) == array.ndim else guessed(array.shape)
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype} is not read")

    def read(frame: int, at: Window) -> Array:
        check_bytes(prod(array.chunks), array.dtype.itemsize)
        return layout.cut(array, frame, at)

    yield Scene(layout.frames, layout.size("Y"), layout.size("X"), read)


def _array(folder: Path) -> tuple[Path, str]:
    """The folder of the array, and the letters of its axes if they are named."""
    node = _json(folder / "zarr.json")
    if node.get("node_type") == "array" or (folder / ".zarray").is_file():
        return folder, ""
    attributes = node.get("attributes", {}) if node else _json(folder / ".zattrs")
    images = attributes.get("ome", attributes).get("multiscales")
    if not images:
        raise ValueError("neither an array nor an OME-Zarr image: name the folder of the array")
    path = Path(images[0]["datasets"][0]["path"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"names an array outside of it, {path}")
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in images[0].get("axes", "tczyx")]
    letters = "".join(name.upper() if name in "yxc" else chr(ord("a") + k) for k, name in enumerate(names))
    return folder / path, letters


def _check_codecs(meta: Any) -> None:
    """Raises ValueError for a codec that is not one of ``_CODECS``, at any depth."""
    if "zarr_format" not in meta:
        raise ValueError("holds no Zarr array")
    pending = [meta.get("codecs"), meta.get("compressor"), meta.get("filters")]
    while pending:
        found = pending.pop()
        if isinstance(found, list):
            pending += found
        elif isinstance(found, str):  # a codec by its name alone
            pending.append({"name": found})
        elif isinstance(found, dict):
            name = str(found.get("name", found.get("id", "")))
            if name.removeprefix("numcodecs.") not in _CODECS:
                raise ValueError(f"codec {name!r} is not read")
            inner = found.get("configuration") or {}
            pending += [inner.get("codecs"), inner.get("index_codecs")]


def _json(file: Path) -> dict[str, Any]:
    """The content of a file of metadata; nothing if there is no such file."""
    if not file.is_file():
        return {}
    if file.stat().st_size > _MOST_METADATA:
        raise ValueError(f"{file.name} is larger than {_MOST_METADATA >> 20} MiB")
    found = json.loads(file.read_bytes())
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no metadata")
    return found
