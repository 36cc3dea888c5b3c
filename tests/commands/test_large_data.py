"""Runs on shards and streams that are killed and go on; what is said of data that pretraining can't take."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from hardviews.cli import main
from hardviews.training.checkpoint import Checkpoints
from tests.commands.test_pretrain import SIMSIAM, TINY, assert_equal, rows, state
from tests.data.serving import serving
from tests.data.tars import png, shards

STEPS = 24  # three epochs of 64 images


def command(data: str, out: Path, *more: str) -> list[str]:
    line = f"{TINY} {SIMSIAM} --batch-size 8 --epochs 3 --checkpoint-steps 3 --workers 1 --knn-epochs 3".split()
    return [sys.executable, "-m", "hardviews.cli", "pretrain", *line, "--data", data, "--out", str(out), *more]


def killed(arguments: list[str], out: Path) -> None:
    """Runs until there is a checkpoint, which is in the middle of an epoch, and not a moment longer."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (out / "checkpoints" / "last.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL


def assert_goes_on(data: str, tmp_path: Path, *more: str) -> None:
    """What a killed run comes to is what an uninterrupted one does, bit for bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(data, whole, *more), check=True, capture_output=True)
    killed(command(data, cut, *more), cut)
    assert 0 < state(cut)["step"] < STEPS
    assert state(cut)["step"] % 8
    done = subprocess.run(command(data, cut, *more), check=True, capture_output=True, text=True)
    assert "going on at step" in done.stdout
    assert_equal(state(whole), state(cut))
    assert rows(whole) == rows(cut)
    assert [row["step"] for row in rows(cut)] == [str(step) for step in range(STEPS)]


def test_a_killed_run_on_local_shards_goes_on_bit_for_bit(tmp_path: Path) -> None:
    shards(tmp_path / "set", [30, 4, 30], (40, 36))
    assert_goes_on(f"{tmp_path}/set/{{000..002}}.tar", tmp_path)
    assert "knn_top1" in (tmp_path / "cut" / "evaluation.csv").read_text()  # of the .cls members


def test_a_killed_run_on_a_stream_goes_on_bit_for_bit(tmp_path: Path) -> None:
    shards(tmp_path / "set", [16] * 4, (40, 36))
    with serving(tmp_path / "set") as served:
        served.faults = {"001.tar": ("break", 3)}
        data = f"{served.address}/{{000..003}}.tar"
        assert_goes_on(data, tmp_path, "--epoch-images", "64", "--shuffle-bytes", "2000")


def test_a_stream_of_another_number_of_processes_is_told_what_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path / "set", [16] * 4, (40, 36))
    save = Checkpoints.save

    def save_as_two_and_stop(self: Checkpoints, saved: dict[str, Any], epoch: int | None = None) -> None:
        save(self, saved | {"processes": 2}, epoch)
        raise KeyboardInterrupt

    with serving(tmp_path / "set") as served:
        line = command(f"{served.address}/{{000..003}}.tar", tmp_path / "run", "--epoch-images", "64", "--workers", "0")
        monkeypatch.setattr(Checkpoints, "save", save_as_two_and_stop)
        assert main(line[3:]) == 130
        monkeypatch.undo()
        capsys.readouterr()
        assert main(line[3:]) == 0
    assert capsys.readouterr().out.count("this run had 2 processes and has 1") == 1
    assert state(tmp_path / "run")["processes"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data pipe:touch${IFS}ran", "--allow-pipe true"),
        ("--data http://127.0.0.1:9/0.tar", "epoch-images: the number of images"),
        ("--data http://127.0.0.1:9/0.tar --epoch-images 64 --test-data shapes:64", "streams have no labels"),
        ("--data shapes:64 --epoch-images 64", "only streams take it"),
        ("--data http://127.0.0.1:9/0.tar --epoch-images 64 --in-memory on", "can't be held in memory"),
        ("--config FILE --data pipe:touch${IFS}ran --epoch-images 64", "give it on the command line"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hardviews.data.remote.PAUSES", ())
    Path("FILE").write_text("allow_pipe: true\n")
    assert main(["pretrain", *TINY.split(), *line.split(), "--out", "run"]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(os.listdir()) == ["FILE"]  # noqa: PTH208


def test_a_command_is_allowed_for_one_run_only(tmp_path: Path) -> None:
    """The written configuration does not run a shell by itself."""
    (file,) = shards(tmp_path / "set", [32], (40, 36))
    line = [*TINY.split(), *SIMSIAM.split(), "--epoch-images", "32", "--epochs", "1", "--knn-epochs", "0"]
    data = ["--data", f"pipe:cat {file}"]
    assert main(["pretrain", *line, *data, "--allow-pipe", "true", "--out", str(tmp_path / "run")]) == 0
    assert "allow_pipe" not in (tmp_path / "run" / "config.yaml").read_text()
    again = ["pretrain", "--config", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(again) == 2
    assert main([*again, "--allow-pipe", "true"]) == 0
    assert_equal(state(tmp_path / "run"), state(tmp_path / "again"))


def test_data_sets_of_hugging_faces_library(tmp_path: Path) -> None:
    """By number with labels, and as a stream."""
    rows = [{"image": {"bytes": png(k, (40, 36)), "path": None}, "label": k % 2} for k in range(32)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "set", num_shards=2)
    line = ["pretrain", *TINY.split(), *SIMSIAM.split(), "--epochs", "1"]
    assert main([*line, "--data", f"hf:{tmp_path}/set", "--out", str(tmp_path / "numbered")]) == 0
    assert "knn_top1" in (tmp_path / "numbered" / "evaluation.csv").read_text()
    assert main([*line, "--data", f"hf-stream:{tmp_path}/set", "--out", str(tmp_path / "stream")]) == 0
    assert state(tmp_path / "stream")["step"] == 2
