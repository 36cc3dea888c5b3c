"""The files of telemetry (``docs/telemetry.md``): an epoch's rows, those of one process, in one ``.npz``."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]

CONSTANT = ("slot", "combinations")  # arrays that do not have a row per image


def path_of(folder: Path, epoch: int, process: int) -> Path:
    return folder / (f"epoch-{epoch:04d}" + (f"-{process}" if process else "") + ".npz")


def written(folder: Path) -> list[tuple[int, int, Path]]:
    """Epoch, process and path of every file there is."""
    found = []
    for file in sorted(folder.glob("epoch-*.npz")):
        _, epoch, *process = file.stem.split("-")
        found.append((int(epoch), int(process[0]) if process else 0, file))
    return found


def load(file: Path) -> Rows:
    """All arrays of a file.

    Raises:
        OSError: it can't be read, or is damaged.
    """
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise OSError(f"{file.name} is damaged") from error


def packed(rows: Rows) -> bytes:
    whole = BytesIO()
    np.savez_compressed(whole, **rows)  # type: ignore[arg-type]
    return whole.getvalue()


def together(parts: Sequence[Rows]) -> Rows:
    """The rows of several parts of an epoch, without what is constant."""
    names = [name for name in parts[0] if name not in CONSTANT] if parts else []
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def before(rows: Rows, step: int) -> Rows:
    """The rows of earlier steps; nothing, where there are none."""
    earlier = rows["step"] < step
    return {name: x if name in CONSTANT else x[earlier] for name, x in rows.items()} if earlier.any() else {}


def replace(file: Path, content: bytes, process: int) -> None:
    """Writes a file beside and renames it, so that it is whole or as it was.

    Raises:
        OSError: it can't be written.
    """
    beside = file.with_name(f"{file.name}.{process}.part")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
