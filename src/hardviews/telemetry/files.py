"""Telemetry's files (``docs/telemetry.md``): one ``.npz`` per epoch and process."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]

FORMAT = 1  # version of the format
CONSTANT = ("slot", "combinations")  # arrays without a row per image
BY_ROW = (
    "epoch", "step", "image", "size", "box", "flip", "jitter", "order", "grey", "blur", "solarize", "masked", "chosen",
    "scored", "kept", "cost", "cost_mean", "rank", "combination_cost",
)  # fmt: skip


SOME_RUNS = frozenset({"tone"})  # by row too, in runs whose plan has it


def path_of(folder: Path, epoch: int, process: int) -> Path:
    return folder / (f"epoch-{epoch:04d}" + (f"-{process}" if process else "") + ".npz")


def list_files(folder: Path) -> list[tuple[int, int, Path]]:
    """Epoch, process and path of every existing file."""
    found = []
    for file in sorted(folder.glob("epoch-*.npz")):
        _, epoch, *process = file.stem.split("-")
        found.append((int(epoch), int(process[0]) if process else 0, file))
    return found


def load(file: Path) -> Rows:
    """Reads all arrays of a file.

    Raises:
        OSError: it can't be read, is damaged, or lacks an array.
    """
    try:
        with np.load(file) as arrays:
            rows = dict(arrays)
        by_row = rows.keys() - set(CONSTANT)
        if rows.keys() - SOME_RUNS != {*CONSTANT, *BY_ROW} or len({len(rows[name]) for name in by_row}) != 1:
            raise ValueError("its arrays are not those of an epoch")
    except OSError:
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise OSError(f"{file.name} is damaged") from error
    return rows


def compressed(rows: Rows) -> bytes:
    buffer = BytesIO()
    # The format of np.savez_compressed in half the time: a higher compression level hardly shrinks random numbers.
    with ZipFile(buffer, "w", ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in rows.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Joins the rows of several parts of an epoch in order of step and image, without the constant arrays."""
    names = [name for name in parts[0] if name not in CONSTANT] if parts else []
    rows = {name: np.concatenate([part[name] for part in parts]) for name in names}
    if not rows:
        return rows
    order = np.lexsort((rows["image"], rows["step"]))
    return {name: x[order] for name, x in rows.items()}


def rows_before(rows: Rows, step: int) -> Rows:
    """The rows of earlier steps; empty if there are none."""
    earlier = rows["step"] < step
    return {name: x if name in CONSTANT else x[earlier] for name, x in rows.items()} if earlier.any() else {}


def replace(file: Path, content: bytes, process: int) -> None:
    """Writes a temporary file and renames it, so that the target is always complete.

    Raises:
        OSError: it can't be written.
    """
    beside = file.with_name(f"{file.name}.{process}.part")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
