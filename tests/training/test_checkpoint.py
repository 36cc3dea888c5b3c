"""Checkpoints survive what happens while they are written, and only hold plain values."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from hardviews.errors import RunError
from hardviews.training import checkpoint
from hardviews.training.checkpoint import Checkpoints


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
