"""Several processes that share a run: who starts, ends and speaks; and runs that resume with another number of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hardviews.cli import main
from hardviews.commands.pretrain import how_to_resume
from hardviews.data.loading.loader import epoch_order
from hardviews.errors import InputError, PeerError, RunError, StoppedError
from hardviews.launch import environment, launcher, processes
from hardviews.telemetry import reading as telemetry
from tests.runs.test_data_faults import good
from tests.runs.test_pretrain import VIT, rows, state

LIMIT = 240  # seconds after which processes are taken to hang
EXACT = "--precision 32-true --accelerator cpu --in-memory off --log-steps 1 --knn-epochs 0"  # and VIT has no BN
# What starts processes by torchrun, Slurm or here, none of which are these tests.
FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(*words: str) -> list[int]:
    """Processes whose command line has all the words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(folder.name))
    return found


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Launches shell scripts in place of this program: one for each process."""

    def launch(*lines: str, nodes: int = 1, out: str | None = None) -> int:
        script = tmp_path / "script"
        cases = "".join(f"{number}) {line};;\n" for number, line in enumerate(lines))
        script.write_text(f"#!/bin/bash\ncd {tmp_path}\ncase $LOCAL_RANK in\n{cases}esac\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return launcher.launch(["pretrain"], len(lines), nodes, lambda: how_to_resume(out))

    return launch


def test_the_first_that_fails_ends_all(scripts: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert scripts("exit 0", "exit 0") == 0
    assert scripts("sleep 1000", "exit 3") == 3
    monkeypatch.setattr(launcher, "PATIENCE", 0.5)
    assert scripts("trap '' TERM; while :; do sleep 0.1; done", "exit 4", "exit 0") == 4
    with pytest.raises(RunError, match=r"process 1 \(pid \d+\) was killed by SIGKILL, and the others were ended"):
        scripts("sleep 1000", "kill -9 $$")
    with pytest.raises(RunError, match=r"SIGABRT, as NCCL ends a process that waits for another which hangs, and"):
        scripts("sleep 1000", "kill -ABRT $$")


def test_processes_are_told_who_they_are(
    scripts: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of torchrun. Slurm's one task starts as many as it likes."""
    said = 'echo $RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $NODE_RANK "$SLURM_NTASKS" > $LOCAL_RANK'
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert scripts(said, said) == 0
    assert [(tmp_path / name).read_text().split() for name in "01"] == [
        ["0", "2", "2", "127.0.0.1", "0"],
        ["1", "2", "2", "127.0.0.1", "0"],
    ]
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="nodes: 2 machines, but not MASTER_ADDR, MASTER_PORT, NODE_RANK"):
        scripts(said, said, nodes=2)
    for name, value in (("MASTER_ADDR", "head"), ("MASTER_PORT", "1234"), ("NODE_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert scripts(said, said, nodes=2) == 0
    assert (tmp_path / "0").read_text().split() == ["2", "4", "2", "head", "1"]


@pytest.mark.parametrize(
    ("cores", "count", "given", "expected"), [(8, 2, None, "4"), (7, 2, None, "3"), (2, 4, None, "1"), (8, 2, "6", "6")]
)
def test_processes_share_the_cores_out(
    cores: int, count: int, given: str | None, expected: str, scripts: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As torch and numpy heed it, unless the user has said how many threads each is to have."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert scripts(*["echo $OMP_NUM_THREADS > $LOCAL_RANK"] * count) == 0
    assert [(tmp_path / str(number)).read_text().strip() for number in range(count)] == [expected] * count


def test_a_killed_run_is_said_to_go_on_only_from_what_is_there(scripts: Callable[..., int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for out, says in (
        (run, f"no checkpoint was written yet: the same command with --out {run} begins again$"),
        (None, "resumes from its last checkpoint, if there is one$"),
    ):
        with pytest.raises(RunError, match=says):
            scripts("sleep 1000", "kill -9 $$", out=None if out is None else str(out))
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.pt").touch()
    with pytest.raises(RunError, match=f"the same command with --out {run} resumes from its last checkpoint$"):
        scripts("sleep 1000", "kill -9 $$", out=str(run))


def test_modules_are_looked_for_where_the_launcher_looks(
    scripts: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``torch.py`` in the current folder is taken by ``python -m hardviews.cli``, and not by ``hardviews``."""
    for place, expected in (("/usr/bin", "-P -m hardviews.cli pretrain"), ("", "-m hardviews.cli pretrain")):
        monkeypatch.setattr(sys, "path", [place, *sys.path[1:]])
        assert scripts('echo "$@" > said') == 0
        assert (tmp_path / "said").read_text().strip() == expected


def test_a_signal_goes_to_the_first_process(
    scripts: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tells the others. None is ended before the first has left by itself."""

    def ask() -> None:
        wait_for((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(launcher, "PATIENCE", 0.5)
    threading.Thread(target=ask).start()
    loop = "while :; do sleep 0.05; done"
    assert scripts(f"trap 'exit 143' TERM; touch ready; {loop}", f"trap 'true' TERM; {loop}") == 143


def test_processes_outlive_no_launcher(tmp_path: Path) -> None:
    """Not even one that was killed."""
    child = "import os, time; from hardviews.launch.processes import end_with_parent; end_with_parent(); "
    child += "print(os.getpid()); time.sleep(60); print('outlived')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-uc', {child!r}])"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {environment.LAUNCHER: str(tmp_path)}
    )
    assert launcher.stdout is not None
    launcher.stdout.readline()
    launcher.kill()
    assert launcher.stdout.read() == b""  # which ends with the child
    launcher.wait()


def test_what_all_have_found_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    monkeypatch.setenv(environment.LAUNCHER, str(tmp_path / "1"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert processes.should_report(RunError("mine"))
    monkeypatch.setenv(environment.LAUNCHER, str(tmp_path / "0"))
    monkeypatch.setenv("RANK", "0")
    assert not processes.should_report(PeerError("not mine"))
    assert processes.should_report(StoppedError("asked", signal.SIGTERM))


SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "3",
    "SLURM_JOB_NAME": "job",
    "SLURM_STEP_ID": "0",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (2, 2, 3)),
        ({"SLURM_JOB_NAME": "bash"}, (1, 1, 0)),
        ({"SLURM_JOB_NAME": "interactive"}, (1, 1, 0)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, (1, 1, 0)),
        ({"SLURM_JOB_NAME": "bash", "RANK": "3"}, (1, 1, 0)),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "5"}, (4, 2, 5)),  # torchrun, started by srun
    ],
)
def test_what_slurm_has_started(
    change: dict[str, str], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SLURM | change).items():
        monkeypatch.setenv(name, value)
    assert (*environment.started(), environment.rank()) == expected


def test_slurm_must_say_how_tasks_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(InputError, match="give sbatch or srun --ntasks-per-node"):
        environment.started()


@pytest.mark.fault("one of several processes that fails", "all end, it is said once; another number of them resumes")
def test_one_that_fails_ends_all_and_the_run_goes_on_with_another_number(tmp_path: Path) -> None:
    """The second of two processes comes upon a picture that it may not do without; one process resumes alone, to what
    one would have done from the start: images, views, figures and weights."""
    data, run, whole = good(tmp_path / "data"), tmp_path / "run", tmp_path / "whole"
    wanted = int(epoch_order(64, 0, 0)[2 * 16 + 8])  # the first of that process's in the third step
    (data / f"{wanted:03d}.jpg").write_bytes(b"")
    line = f"pretrain {VIT.replace('shapes:32', str(data))} {EXACT} --epochs 2 --checkpoint-steps 1 --telemetry 64"
    command = [sys.executable, "-m", "hardviews.cli", *line.split(), "--out", str(run)]
    found = subprocess.run(
        [*command, "--devices", "2", "--max-unreadable", "0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert found.returncode == 1
    [error] = re.findall("hardviews: error: .*", found.stderr)
    assert error.startswith("hardviews: error: process 1: step 2: ")
    assert f"{wanted:03d}.jpg" in error
    assert "Traceback" not in found.stderr
    assert not alive("hardviews.cli", str(run))
    assert state(run)["step"] == 2
    for folder in (run, whole):
        assert main([*line.split(), "--out", str(folder), "--max-unreadable", "0.5"]) == 0
    assert_same_run(run, whole)


@pytest.mark.endure
@pytest.mark.fault(
    "one of several processes that hangs", "all end within 15 minutes, with a clear line; the same command resumes"
)
def test_one_that_hangs_ends_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"pretrain {VIT.replace('--method dino', '--method tests.launch.hanging.Hanging')} {EXACT}"
    line = f"{line.replace('shapes:32', 'shapes:64')} --epochs 3 --checkpoint-steps 5 --devices 2 --out {run}"
    command = [sys.executable, "-m", "hardviews.cli", *line.split()]
    found = subprocess.run(
        command, env=os.environ | {"HANGS": "1"}, check=False, capture_output=True, text=True, timeout=LIMIT
    )
    assert found.returncode == 1
    [error] = re.findall("hardviews: error: .*", found.stderr)
    assert error.startswith(
        "hardviews: error: another process gives no answer: it hangs, or its machine is gone; the same command with "
        f"--out {run} resumes from its last checkpoint ("
    )
    assert "Traceback" not in found.stderr
    assert not alive("hardviews.cli", str(run))
    assert state(run)["step"] == 5
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(12)]


def assert_same_run(run: Path, whole: Path) -> None:
    """But for rounding."""
    for ours, theirs in zip(rows(run), rows(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert float(ours[name] or "nan") == pytest.approx(float(theirs[name] or "nan"), abs=1e-5, nan_ok=True), (
                name
            )
    torch.testing.assert_close(state(run)["method"], state(whole)["method"], atol=1e-5, rtol=0)
    followed = [telemetry.load(folder) for folder in (run, whole)]
    places = [np.lexsort((found["image"], found["step"])) for found in followed]
    assert len(places[1]) == len(rows(whole)) * 16
    for name in ("step", "image", "box", "jitter", "flip", "kept"):
        here, there = (found[name][place] for found, place in zip(followed, places, strict=True))
        assert np.array_equal(here, there), name
