"""Runs that are killed at any moment after their first checkpoint end as the run that was not, bit for bit.

``make endure`` kills each 20 times, in turns at random moments and while a checkpoint is being written.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.runs.test_pretrain import SIMSIAM, VIT, assert_equal, rows, state

KILLS = 20
COMMON = (
    "--data shapes:64 --epochs 30 --log-steps 2 --checkpoint-steps 3 --knn-epochs 10 --tensorboard false --workers 0"
)
NARROW = "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --batch-size 16"
LINES = {
    "simsiam": f"{SIMSIAM} {NARROW} --backbone.drop_path_rate 0.3 {COMMON}",
    "dino": f"{VIT} --backbone.drop_path_rate 0.3 {COMMON}",
}
LINES["dino, shared out"] = f"{LINES['dino']} --strategy fsdp"


@pytest.mark.fault(
    "SIGKILL, at random moments and while a checkpoint is written", "resumes after it, on a CPU bit for bit"
)
@pytest.mark.endure
@pytest.mark.parametrize(
    ("method", "processes"),
    [("simsiam", 1), ("simsiam", 2), ("dino", 1), ("dino", 2), ("dino, shared out", 2)],
)
def test_killed_again_and_again(method: str, processes: int, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    command = [sys.executable, "-m", "hardviews.cli", "pretrain", *LINES[method].split()]
    command += ["--devices", str(processes), "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(whole)], check=True, env=environment, capture_output=True)
    draw = random.Random(0)
    writing = 0  # times that it was killed with a checkpoint half written
    last = run / "checkpoints" / "last.pt"
    for number in range(KILLS):
        log = tmp_path / f"log-{number}"
        with log.open("w") as said:
            process = subprocess.Popen(
                [*command, str(run)], env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        before = last.stat().st_mtime_ns if last.exists() else 0
        # It has to get on, else it would be killed for ever in the same place.
        wait_for(process, lambda before=before: last.exists() and last.stat().st_mtime_ns > before)  # type: ignore[misc]
        if number % 2:  # while a checkpoint is being written
            wait_for(process, lambda: any(last.parent.rglob("*.part")))
        else:
            time.sleep(draw.uniform(0, 0.4))
        ended = process.poll() is not None
        if not ended:
            kill_all(process.pid)
        process.wait()
        if before:
            assert goes_on_at(log.read_text()) > 0
        writing += any(file.stat().st_mtime_ns > before for file in last.parent.rglob("*.part"))
        if ended:  # before it was killed often enough: from the start again
            assert_the_same(run, whole)
            run.rename(tmp_path / f"run-{number}")
    there = last.exists()
    ended_at_last = subprocess.run([*command, str(run)], check=True, env=environment, capture_output=True, text=True)
    assert not there or goes_on_at(ended_at_last.stdout) > 0
    assert_the_same(run, whole)
    assert writing


def goes_on_at(said: str) -> int:
    """The step, which a run that starts over has not to tell."""
    [line] = [line for line in said.splitlines() if line.startswith(("resuming at step", "the run is finished"))]
    return int(line.split()[4]) if line.startswith("going") else sys.maxsize


def assert_the_same(run: Path, whole: Path) -> None:
    assert_equal(state(run), state(whole))
    assert rows(run) == rows(whole)
    assert (run / "evaluation.csv").read_text() == (whole / "evaluation.csv").read_text()


def kill_all(pid: int) -> None:
    """At once: the processes that this one has launched, which have groups of their own, would outlive it a little."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for number in (*map(int, children), pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def wait_for(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    """Or for the process to end."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not true() and time.monotonic() < deadline:
        time.sleep(0.001)
