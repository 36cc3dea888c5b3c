"""The files of telemetry (``docs/telemetry.md``): an epoch's rows, those of one process, in one ``.npz``."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]

FORMAT = 1  # of a run's telemetry
CONSTANT = ("slot", "combinations")  # arrays that do not have a row per image
BY_ROW = (
    "epoch", "step", "image", "size", "box", "flip", "jitter", "order", "grey", "blur", "solarize", "masked", "chosen",
    "scored", "kept", "cost", "cost_mean", "rank", "combination_cost",
)  # fmt: skip


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
        OSError: it can't be read, is damaged, or lacks an array.
    """
    try:
        with np.load(file) as arrays:
            rows = dict(arrays)
        if rows.keys() != {*CONSTANT, *BY_ROW} or len({len(rows[name]) for name in BY_ROW}) != 1:
            raise ValueError("its arrays are not those of an epoch")
    except OSError:
        raise
    except Exception as error:  # an archive that is damaged may end in nearly anything
        raise OSError(f"{file.name} is damaged") from error
    return rows


def packed(rows: Rows) -> bytes:
    whole = BytesIO()
    # As np.savez_compressed, in half its time: numbers drawn at random get hardly smaller by trying harder.
    with ZipFile(whole, "w", ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in rows.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return whole.getvalue()


def together(parts: Sequence[Rows]) -> Rows:
    """The rows of several parts of an epoch, in the order of steps and images, without what is constant."""
    names = [name for name in parts[0] if name not in CONSTANT] if parts else []
    rows = {name: np.concatenate([part[name] for part in parts]) for name in names}
    if not rows:
        return rows
    order = np.lexsort((rows["image"], rows["step"]))
    return {name: x[order] for name, x in rows.items()}


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
