"""Zarr arrays and OME-Zarr in a folder, by zarr. ``zarr_chunks.py`` sets bounds to what zarr reads and unpacks."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from hardviews.data.reading.formats.layout import Layout, guessed
from hardviews.data.reading.formats.scene import Content, Scene, Window
from hardviews.data.reading.forms import Array

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
    chunks: Any = importlib.import_module("hardviews.data.reading.formats.zarr_chunks")
    array = chunks.opened(folder, meta)
    layout = Layout(axes, tuple(array.shape)) if axes and len(axes) == array.ndim else guessed(array.shape)

    def read(frame: int, at: Window) -> Array:
        spans = {"Y": (at.top, at.height), "X": (at.left, at.width), "C": (0, layout.size("C"))}
        touched = [
            (start + length - 1) // side - start // side + 1
            for axis, side in zip(layout.axes, array.chunks, strict=True)
            for start, length in [spans.get(axis, (0, 1))]
        ]
        chunks.check_together(array, prod(touched))
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
