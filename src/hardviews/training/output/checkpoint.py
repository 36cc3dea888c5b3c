"""Checkpoints: written beside and renamed, so that the last one is always whole; checked and loaded without pickle."""

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
# The weights, as many numbers of the optimizer (twice for AdamW): of the last two checkpoints and the next beside them.
COPIES = 9


class Checkpoints:
    """The checkpoints of a run: ``last.pt``, the one before it, and those of epochs that are kept.

    Of a network that is shared out among processes each holds the first one's part and names the files in ``parts/`` of
    the others, which are there before it is.

    Args:
        folder: where they lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.last, self.before = folder, folder / "last.pt", folder / "before.pt"
        self.parts = folder / "parts"
        self._in_use: list[str] = []  # parts of the last one

    def going_on(self) -> str:
        """How the run goes on, for those who read that it has ended."""
        command = f"the same command with --out {self.folder.parent}"
        if self.last.exists():
            return f"{command} goes on from its last checkpoint"
        return f"no checkpoint was written yet: {command} begins again"

    def of_epoch(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.pt"

    def save(self, state: dict[str, Any], epoch: int | None = None) -> None:
        """Makes ``state`` the last and keeps the one before it.

        Args:
            state: plain values and tensors; ``"parts"``: the names of the other processes' files.
            epoch: keep it under this number too, for good.

        Raises:
            OSError: it can't be written; those that are there are as they were.
        """
        beside = _written(self.last, state)
        if self.last.exists():
            _linked(self.last, self.before)
        beside.replace(self.last)
        parts = state.get("parts", [])
        before, self._in_use = self._in_use, parts
        if epoch is not None:
            _linked(self.last, self.of_epoch(epoch))
        _settle(self.folder)
        with suppress(OSError):  # the next save comes by again
            for file in self.parts.glob("step-*"):
                if file.name not in (*parts, *before):
                    file.unlink()

    def save_part(self, state: dict[str, Any], name: str) -> None:
        """Writes what a process other than the first has of a checkpoint that is about to be saved.

        Args:
            state: plain values and tensors.
            name: that the checkpoint will give; one that begins with ``step-`` goes with the checkpoint.

        Raises:
            OSError: it can't be written.
        """
        _written(self.parts / name, state).replace(self.parts / name)
        _settle(self.parts)

    def newest(self, at_most: int | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest that is whole, be it of an epoch that was kept, None where there is none, and a line for every one
        that was passed over.

        Args:
            at_most: later steps are not wanted.

        Raises:
            RunError: there are some, and none of them is whole.
        """
        kept = sorted(self.folder.glob("epoch-*.pt"), key=lambda file: (len(file.name), file.name), reverse=True)
        damaged: list[str] = []
        seen = set[int]()
        for file in (self.last, self.before, *kept):
            if not file.exists() or file.stat().st_ino in seen:  # one file has both names
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
            raise RunError(f"{damaged[0]}; no other checkpoint is there to go on from")
        return None, []

    def set_aside(self) -> None:
        """Puts a last one that was passed over where the next will not make it the one before."""
        with suppress(OSError):
            self.last.replace(self.folder / "damaged.pt")


def _written(path: Path, state: dict[str, Any]) -> Path:
    """The file beside ``path`` that is to become it, whole and on the disk."""
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
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _linked(file: Path, name: Path) -> None:
    """Gives a file another name, in place of what had it; at no moment is neither there."""
    beside = name.with_name(f"{name.name}.part")
    beside.unlink(missing_ok=True)
    try:
        beside.hardlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, beside)
    beside.replace(name)


def _settle(folder: Path) -> None:
    """Else a rename may be lost with the power."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, tensors and plain values only, once every byte agrees with its checksum.

    A tensor that was shared out among processes is the list of its parts (``parts.whole`` puts them together).

    Raises:
        RunError: it is missing, damaged, or of another format; or one of its parts is.
    """
    state = _load(path)
    try:
        return _whole(path, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: can't be loaded as a checkpoint: it lacks {error}") from error


def _whole(path: Path, state: dict[str, Any]) -> dict[str, Any]:
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
        with zipfile.ZipFile(path) as whole:
            wrong = whole.testzip()
        if wrong is not None:
            raise ValueError(f"{wrong} does not agree with its checksum")
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
