"""Checkpoints: written to a temporary file and renamed, so that the last one is always complete; loaded without
pickle."""

import os
import pickle
import shutil
import zipfile
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from hardviews.errors import RunError

FORMAT = 2
# Size in units of the weights: weights plus optimizer state (twice the weights for AdamW), for three checkpoints at
# once.
COPIES = 9


class Checkpoints:
    """A run's checkpoints: ``last.pt``, the one before it, and the permanent ones of epochs.

    For a sharded network, each holds the first process's shards and names the other processes' files in ``parts/``,
    which are written first.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.last, self.before = folder, folder / "last.pt", folder / "before.pt"
        self.parts = folder / "parts"
        self._in_use: list[str] = []  # parts of the last checkpoint

    def how_to_resume(self) -> str:
        """How to resume the run, for a message that it has ended."""
        command = f"the same command with --out {self.folder.parent}"
        if self.last.exists():
            return f"{command} resumes from its last checkpoint"
        return f"no checkpoint was written yet: {command} begins again"

    def of_epoch(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.pt"

    def save(self, state: dict[str, Any], epoch: int | None = None) -> None:
        """Makes ``state`` the last checkpoint and keeps the previous one.

        Args:
            state: plain values and tensors; ``"parts"``: the names of the other processes' files.
            epoch: also keep it permanently under this number.

        Raises:
            OSError: it can't be written; existing checkpoints are unchanged.
        """
        beside = _written(self.last, state)
        if self.last.exists():
            _linked(self.last, self.before)
        beside.replace(self.last)
        parts = state.get("parts", [])
        before, self._in_use = self._in_use, parts
        if epoch is not None:
            _linked(self.last, self.of_epoch(epoch))
        _flush_folder(self.folder)
        with suppress(OSError):  # the next save tries again
            for file in self.parts.glob("step-*"):
                if file.name not in (*parts, *before):
                    file.unlink()

    def save_part(self, state: dict[str, Any], name: str) -> None:
        """Writes another process's part of the checkpoint that is about to be saved.

        Args:
            state: plain values and tensors.
            name: named in the checkpoint; a name that begins with ``step-`` is deleted with the checkpoint.

        Raises:
            OSError: it can't be written.
        """
        _written(self.parts / name, state).replace(self.parts / name)
        _flush_folder(self.parts)

    def newest(self, at_most: int | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest intact checkpoint, including those of epochs (None if there is none), and a line for every damaged
        one that was passed over.

        Args:
            at_most: ignore later steps.

        Raises:
            RunError: there are checkpoints, and all are damaged.
        """
        kept = sorted(self.folder.glob("epoch-*.pt"), key=lambda file: (len(file.name), file.name), reverse=True)
        damaged: list[str] = []
        seen = set[int]()
        for file in (self.last, self.before, *kept):
            if not file.exists() or file.stat().st_ino in seen:  # one file may have both names
                continue
            seen.add(file.stat().st_ino)
            try:
                state = load(file)
                if at_most is not None and state["step"] > at_most:
                    continue
                self._in_use = state.get("parts", [])
                return state, damaged
            except RunError as error:
                damaged.append(str(error))
        if damaged:
            raise RunError(f"{damaged[0]}; there is no other checkpoint to resume from")
        return None, []

    def set_aside(self) -> None:
        """Moves a damaged last checkpoint away, so that the next save does not keep it as the previous one."""
        with suppress(OSError):
            self.last.replace(self.folder / "damaged.pt")


def _written(path: Path, state: dict[str, Any]) -> Path:
    """Writes a complete temporary file beside ``path``, flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Via memory: torch's writer turns a full disk, and Ctrl-C, into errors of its own.
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _linked(file: Path, name: Path) -> None:
    """Gives a file another name, atomically replacing the file of that name."""
    beside = name.with_name(f"{name.name}.part")
    beside.unlink(missing_ok=True)
    try:
        beside.hardlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, beside)
    beside.replace(name)


def _flush_folder(folder: Path) -> None:
    """Flushes a folder to disk, or a power failure might undo a rename."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, after verifying all checksums; accepts only tensors and plain values.

    A sharded tensor is a list of its shards (``sharded_state.unsharded`` concatenates them).

    Raises:
        RunError: the file or one of its parts is missing, damaged, or of another format.
    """
    state = _load(path)
    try:
        return _assembled(path, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: can't be loaded as a checkpoint: it lacks {error}") from error


def _assembled(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    others = [_load(path.parent / "parts" / Path(name).name, mmap=True) for name in state.get("parts", [])]
    if any(other["step"] != state["step"] for other in others):
        raise RunError(f"{path}: its parts are of another step")
    if others:
        _gather(state["method"], [other["method"] for other in others])
        for name, kept in state["optimizer"].items():
            _gather(kept, [other["optimizer"].get(name, {}) for other in others])
    return state


def _gather(tensors: dict[str, Any], others: list[dict[str, Any]]) -> None:
    for name in tensors.keys() & others[0].keys():
        tensors[name] = [tensors[name], *(other[name] for other in others)]


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise ValueError(f"{wrong} does not match its checksum")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (
        OSError, RuntimeError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise RunError(f"{path}: can't be loaded as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{path}: not a checkpoint of this version of hardviews")
    return state
