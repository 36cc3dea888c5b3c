"""Runs on shards and streams that are killed and continue; what is said of data that pretraining can't take."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from hardviews.cli import main
from hardviews.training.output.checkpoint import Checkpoints
from tests.data.serving import serving
from tests.data.tars import png, shards
from tests.runs.test_pretrain import SIMSIAM, TINY, assert_equal, rows, state


def arguments(data: str, out: Path, *more: str) -> list[str]:
    line = f"{TINY} {SIMSIAM} --batch-size 8 --epochs 3 --checkpoint-steps 3 --workers 1 --knn-epochs 3".split()
    return ["pretrain", *line, "--data", data, "--out", str(out), *more]


# Kills itself in the middle of an epoch, and after its first checkpoint.
KILLED = """
import os, signal, sys
from hardviews.cli import main
from hardviews.training.output.checkpoint import Checkpoints

save = Checkpoints.save

def save_and_die(*given):
    save(*given)
    os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = save_and_die
main(sys.argv[1:])
"""
# Nobody waits long.
HURRIED = """
import sys
from hardviews.cli import main
from hardviews.data.reading import remote

remote.TIMEOUT, remote.PAUSES = 1.0, (0.01,) * 3
sys.exit(main(sys.argv[1:]))
"""


def process(code: str, line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *line], check=False, capture_output=True, text=True, timeout=240)


def assert_goes_on(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """What a killed run comes to is what an uninterrupted one does, bit for bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(arguments(data, whole, *more)) == 0
    assert process(KILLED, arguments(data, cut, *more)).returncode == -signal.SIGKILL
    assert state(cut)["step"] == 3
    capsys.readouterr()
    assert main(arguments(data, cut, *more)) == 0
    assert "resuming at step 3 of 24" in capsys.readouterr().out
    assert_equal(state(whole), state(cut))
    assert rows(whole) == rows(cut)
    assert [row["step"] for row in rows(cut)] == [str(step) for step in range(24)]


@pytest.mark.endure
def test_a_killed_run_on_local_shards_goes_on_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards(tmp_path / "set", [30, 4, 30], (40, 36))
    assert_goes_on(f"{tmp_path}/set/{{000..002}}.tar", tmp_path, capsys)
    assert "knn_top1" in (tmp_path / "cut" / "evaluation.csv").read_text()  # of the .cls members


def test_a_killed_run_on_a_stream_goes_on_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards(tmp_path / "set", [16] * 4, (40, 36))
    with serving(tmp_path / "set") as served:
        served.faults = {"001.tar": ("break", 3)}
        data = f"{served.address}/{{000..003}}.tar"
        assert_goes_on(data, tmp_path, capsys, "--epoch-images", "64", "--shuffle-bytes", "2000")


@pytest.mark.endure
@pytest.mark.fault("server that stalls, breaks off, or says 500", "asked again for what is missing")
@pytest.mark.fault("server that stays silent", "a clear line; the same command resumes")
def test_a_server_that_misbehaves(tmp_path: Path) -> None:
    shards(tmp_path / "set", [16] * 4, (40, 36))
    with serving(tmp_path / "set") as served:
        served.faults = {"000.tar": ("stall", 1), "001.tar": ("500", 1), "002.tar": ("break", 1)}
        more = ("--epoch-images", "64", "--knn-epochs", "0", "--epochs", "1")
        line = arguments(f"{served.address}/{{000..003}}.tar", tmp_path / "run", *more)
        done = process(HURRIED, line)
        assert done.returncode == 0, done.stderr
        assert [row["skipped"] for row in rows(tmp_path / "run")] == ["0"] * 8
        served.faults = {"003.tar": ("silence", 99)}
        line += ["--epochs", "3", "--out", str(tmp_path / "stopped")]
        stopped = process(HURRIED, line)
        served.faults = {}
        assert main(line) == 0
    assert [row["step"] for row in rows(tmp_path / "stopped")] == [str(step) for step in range(24)]
    assert stopped.returncode == 1
    [error] = stopped.stderr.splitlines()
    assert "003.tar: nothing came for 1 s at byte" in error
    assert "checkpoint" in error


def test_a_stream_of_another_number_of_processes_is_told_what_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path / "set", [16] * 4, (40, 36))
    save = Checkpoints.save

    def save_as_two_and_stop(self: Checkpoints, saved: dict[str, Any], epoch: int | None = None) -> None:
        save(self, saved | {"processes": 2}, epoch)
        raise KeyboardInterrupt

    with serving(tmp_path / "set") as served:
        line = arguments(
            f"{served.address}/{{000..003}}.tar", tmp_path / "run", "--epoch-images", "64", "--workers", "0"
        )
        monkeypatch.setattr(Checkpoints, "save", save_as_two_and_stop)
        assert main(line) == 130
        monkeypatch.undo()
        capsys.readouterr()
        assert main(line) == 0
    assert capsys.readouterr().out.count("this run had 2 processes and now has 1") == 1
    assert state(tmp_path / "run")["processes"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data pipe:touch${IFS}ran", "--allow-pipe true"),
        ("--data http://127.0.0.1:9/0.tar", "epoch-images: the number of images"),
        ("--data http://127.0.0.1:9/ü.tar --epoch-images 64", "'ü' must be percent-encoded"),
        ("--data http://[bad/x.tar --epoch-images 64", "http://[bad/x.tar is no web address: Invalid IPv6 URL"),
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
    monkeypatch.setattr("hardviews.data.reading.remote.PAUSES", ())
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
