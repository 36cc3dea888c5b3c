"""Checkpoints: written beside and renamed, so that the last one is always whole; loaded without pickle."""

import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from hardviews.errors import RunError

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that ``path`` holds either the old one or the new one, whole, whenever the machine
    stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not straight to the file: torch's writer turns a full disk, and Ctrl-C, into errors of its own.
    whole = BytesIO()
    torch.save({"format": FORMAT, **state}, whole)
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(whole.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the rename itself may be lost with the power
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, tensors and plain values only.

    Raises:
        RunError: it is missing, damaged, or of another format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise RunError(f"{path}: can't be loaded as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{path}: not a checkpoint of this version of hardviews")
    return state
