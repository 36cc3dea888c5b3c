"""Several processes and everything that may become of one of them: all end at once, it is said once, and the same
command resumes. ``make endure`` only: every case starts processes several times."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.launch.slurm import installed
from tests.launch.test_processes import EXACT, LIMIT, alive, assert_same_run, wait_for
from tests.runs.test_pretrain import VIT, rows, state

pytestmark = pytest.mark.endure

# A method that fails as FAULT says, in the processes it names, after its seventh step.
FAULTY = """
import os, time, torch
from hardviews.methods.dino import DINO

class Faulty(DINO):
    def after_step(self, encoding):
        super().after_step(encoding)
        kind, _, who = os.environ.get("FAULT", "").partition(":")
        number = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        if self.progress.step != 6 or number not in who.split(","):
            return
        if kind == "raises":
            raise ValueError("the plugin is at fault")
        if kind == "memory":
            raise torch.OutOfMemoryError("tried to allocate")
        if kind == "killed":
            os.kill(os.getpid(), 9)
"""
LINE = (
    f"pretrain {VIT.replace('--method dino', '--method faulty.Faulty').replace('shapes:32', 'shapes:64')} {EXACT} "
    "--epochs 3 --checkpoint-steps 5 --telemetry 64"
)
SAID = {"raises": "ValueError: the plugin is at fault", "memory": "out of memory on cpu", "killed": "SIGKILL"}
STARTERS = ("devices", "torchrun", "srun")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


def command(starter: str, run: Path, folder: Path, processes: int = 2) -> tuple[list[str], dict[str, str]]:
    """A command line that starts so many processes, and its environment."""
    line = [*LINE.split(), "--out", str(run)]
    if starter == "torchrun":
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return [sys.executable, *torchrun, "-m", "hardviews.cli", *line], dict(os.environ)
    if starter == "srun":
        environment = installed(
            folder / f"slurm-{len(list(folder.iterdir()))}", 1, processes, 29_500 + os.getpid() % 999
        )
        return ["srun", "--kill-on-bad-exit=1", "hardviews", *line], environment
    return [sys.executable, "-m", "hardviews.cli", *line, "--devices", str(processes)], dict(os.environ)


@pytest.mark.fault(
    "error, lack of memory or SIGKILL of one of several processes", "all end within seconds, and it is said once"
)
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("fault", ["raises:1", "raises:0,1", "memory:1", "memory:0,1", "killed:0", "killed:1"])
def test_one_that_fails_ends_all_and_it_is_said_once(fault: str, starter: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv, environment = command(starter, run, tmp_path)
    found = subprocess.run(
        argv,
        env=environment | {"FAULT": fault},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert found.returncode != 0
    kind = fault.partition(":")[0]
    if starter == "devices" or kind != "killed":  # srun and torchrun say themselves what was killed
        lines = [line for line in found.stderr.splitlines() if SAID[kind] in line]
        assert len(lines) == 1, found.stderr
    # Slurm's tasks can't know that another has said it.
    assert found.stderr.count("the other processes can't be reached") <= (starter == "srun")
    wait_for(lambda: not alive("hardviews.cli", str(run)))
    assert state(run)["step"] == 5
    argv, environment = command(starter, run, tmp_path)
    subprocess.run(argv, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=LIMIT)
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(12)]


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_a_run_goes_on_with_another_number(before: int, after: int, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    argv, environment = command("devices", run, tmp_path, before)
    cut = subprocess.run(
        argv, env=environment | {"FAULT": "killed:0"}, cwd=tmp_path, check=False, capture_output=True, timeout=LIMIT
    )
    assert cut.returncode != 0
    assert state(run)["step"] == 5  # in the middle of the second epoch
    for folder, processes in ((run, after), (whole, 1)):
        argv, environment = command("devices", folder, tmp_path, processes)
        subprocess.run(argv, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=LIMIT)
    assert_same_run(run, whole)


@pytest.mark.fault(
    "SIGINT, SIGTERM, SIGUSR1 or SIGHUP to one or all of several processes",
    "all save after the same step; the same command resumes",
)
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("to", ["the first", "all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_save_and_leave(number: signal.Signals, to: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv, environment = command("devices", run, tmp_path)
    process = subprocess.Popen(
        [*argv, "--epochs", "50"], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for((run / "metrics.csv").exists)
    if to == "all":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number, said
    [line] = [line for line in said.splitlines() if line.startswith("hardviews: ")]
    assert line.startswith(f"hardviews: stopped by {number.name}, saved after")
    assert len(rows(run)) == state(run)["step"] < 200
    assert not alive("hardviews.cli", str(run))


@pytest.mark.fault("launcher of several processes that is killed", "none of them is left")
@pytest.mark.usefixtures("faulty")
def test_a_launcher_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv, environment = command("devices", run, tmp_path)
    process = subprocess.Popen([*argv, "--epochs", "50"], env=environment)
    wait_for((run / "checkpoints" / "last.pt").exists)
    process.kill()
    process.wait()
    wait_for(lambda: not alive("hardviews.cli", str(run)))
    assert state(run)["step"] < 200


@pytest.mark.fault("terminal of a comparison that is closed", "its run saves and leaves")
def test_a_terminal_that_is_closed_ends_a_comparison_and_its_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    narrow = "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --workers 0 --data shapes:640"
    line = f"compare {narrow} --batch-size 16 --epochs 20 --knn-epochs 0 --protocol knn --timed-steps 2 --out {out}"
    argv = [sys.executable, "-m", "hardviews.cli", *line.split(), "--log-steps", "1"]
    pid, terminal = pty.fork()  # of which it is the first process
    if pid == 0:
        os.execv(argv[0], argv)
    os.set_blocking(terminal, False)

    def trains() -> bool:
        with suppress(BlockingIOError):
            os.read(terminal, 1 << 16)  # else the writer would wait
        return bool(list(out.glob("runs/*/metrics.csv")))

    wait_for(trains)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert not alive("hardviews.cli", str(out))
    [log] = out.glob("runs/*.log")
    assert re.search("stopped by SIGHUP, saved after", log.read_text())
    [run] = (file.parent for file in out.glob("runs/*/metrics.csv"))
    assert state(run)["step"] == len(rows(run))
