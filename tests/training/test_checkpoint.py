"""Checkpoints survive what happens while they are written, and only hold plain values."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardviews.errors import InputError, RunError
from hardviews.training.output import checkpoint
from hardviews.training.output.checkpoint import Checkpoints
from hardviews.training.output.saving import Saver


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"step": 3, "method": {"w": torch.rand(3, 4)}, "scaler": {}}
    Checkpoints(tmp_path / "a").save(state)
    loaded = checkpoint.load(tmp_path / "a" / "last.pt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["method"]["w"], state["method"]["w"])  # type: ignore[index]


def test_a_crash_while_saving_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "last.pt"
    Checkpoints(tmp_path).save({"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Checkpoints(tmp_path).save({"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(file)["step"] == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "pickle", "missing", "foreign"])
def test_damage_is_one_line_naming_the_file(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "last.pt"
    Checkpoints(tmp_path).save({"step": 1, "method": {"w": torch.rand(100)}})
    whole = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            file.write_bytes(b"\x00\xff" * 500)
        case "empty":
            file.write_bytes(b"")
        case "pickle":
            torch.save({"format": 1, "code": pickle.Unpickler}, file)
        case "foreign":
            torch.save({"state_dict": {}}, file)
        case _:
            file.unlink()
    with pytest.raises(RunError, match=r"last\.pt") as caught:
        checkpoint.load(file)
    assert "\n" not in str(caught.value)


def test_parts_of_the_last_two_are_kept_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)

    def save(step: int, settle: bool = True) -> None:
        state = {"step": step, "method": {"w": torch.full((2,), float(step))}, "optimizer": {}}
        name = f"step-{step:08d}-1-of-2.pt"
        checkpoints.save_part(state, name)
        with monkeypatch.context() as patched:
            if not settle:
                patched.setattr(checkpoint, "_flush_folder", broken)
            checkpoints.save(state | {"parts": [name]})

    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error")

    unlink = Path.unlink

    def stuck(file: Path, missing_ok: bool = False) -> None:
        if file.parent == checkpoints.parts:
            raise OSError(5, "Input/output error")
        unlink(file, missing_ok)

    save(3)
    save(6)
    with pytest.raises(OSError, match="Input/output"):
        save(9, settle=False)  # is renamed, but not known to be on the disk
    save(12)
    assert checkpoint.load(checkpoints.last)["step"] == 12
    assert [part.tolist() for part in checkpoint.load(checkpoints.before)["method"]["w"]] == [[9, 9], [9, 9]]
    assert len(list(checkpoints.parts.iterdir())) == 2
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stuck)
        save(15)  # has saved, whatever lies about
    assert len(list(checkpoints.parts.iterdir())) == 3
    save(18)
    assert len(list(checkpoints.parts.iterdir())) == 2


def test_a_kept_epoch_is_better_than_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 4, 6, 8):
        checkpoints.save({"step": step, "method": {}, "optimizer": {}}, step // 2 if step < 6 else None)
    checkpoints.last.write_bytes(b"damaged")
    checkpoints.before.write_bytes(b"damaged")
    state, damaged = checkpoints.newest()
    assert state is not None
    assert state["step"] == 4
    assert [line.partition(":")[0] for line in damaged] == [str(checkpoints.last), str(checkpoints.before)]
    checkpoints.last.unlink()
    checkpoints.last.hardlink_to(checkpoints.before)  # is not looked at twice
    assert len(checkpoints.newest()[1]) == 1


def test_data_are_those_of_all_processes_and_of_the_start() -> None:
    """One that finds other images must not leave alone, while the others wait for it."""
    others = False

    def all_reduce(mine: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return mine + others

    saver = Saver(SimpleNamespace(all_reduce=all_reduce), None, Checkpoints(Path("run")), "64 ab")  # type: ignore[arg-type]
    saver._check_data("64 ab")
    for then, found in (("60 ab", "64"), ("64 ff", "others of that number")):
        with pytest.raises(InputError, match=f"began with {then[:2]} images and finds {found}"):
            saver._check_data(then)
    others = True
    with pytest.raises(InputError, match="data: this run began with"):
        saver._check_data("64 ab")


def test_processes_go_on_from_what_all_of_them_can_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 6):
        checkpoints.save({"step": step, "method": {}, "optimizer": {}})
    least = 3  # which is all that another process can read

    def all_reduce(mine: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return mine.clamp(max=least) if reduce_op == "min" else mine

    saver = Saver(SimpleNamespace(all_reduce=all_reduce, world_size=1), None, checkpoints, "")  # type: ignore[arg-type]
    state, damaged = saver._newest()
    assert state is not None
    assert state["step"] == 3
    assert damaged == [f"{checkpoints.last}: another process can't read it"]
    wanted = "no checkpoint is readable by all processes; do all machines share"
    least = 2
    with pytest.raises(RunError, match=wanted):
        saver._newest()
    least = 0  # another finds none, as in a folder that is not shared
    with pytest.raises(RunError, match=wanted):
        saver._newest()
    checkpoints.before.write_bytes(b"damaged")
    told: list[float] = []  # what this process says of itself before it leaves

    def and_told(mine: torch.Tensor, reduce_op: str) -> torch.Tensor:
        told.append(float(mine))
        return all_reduce(mine, reduce_op)

    least, saver.fabric = 3, SimpleNamespace(all_reduce=and_told, world_size=1)  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"before\.pt: can't be loaded"):
        saver._newest()
    assert told == [6, 1]


@pytest.mark.parametrize("wrong", [{"parts": 3}, {"parts": ["a"], "method": None}, {"parts": ["a"], "step": None}])
def test_what_is_whole_but_no_checkpoint_is_one_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_part({"step": 1, "method": {"w": torch.ones(1)}, "optimizer": {}}, "a")
    torch.save({"format": checkpoint.FORMAT, "step": 1, "method": {}, "optimizer": {}} | wrong, checkpoints.last)
    with pytest.raises(RunError, match=r"last\.pt"):
        checkpoint.load(checkpoints.last)
