"""Runs that are stopped, or find the disk full, a checkpoint damaged, losses not finite: what is lost, and said."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hardviews.cli import main
from hardviews.errors import InputError
from hardviews.evaluation.features import Features, extract
from hardviews.methods.base import Method
from hardviews.training.output.checkpoint import Checkpoints
from hardviews.training.output.run_folder import RunFolder
from hardviews.wording import several
from tests.runs.test_pretrain import LINES, SIMCLR, SIMSIAM, TINY, assert_equal, pretrain, rows, state

REPOSITORY = Path(__file__).parents[2]
LIMIT = 240  # seconds after which a run is taken to hang
LINE = f"--data shapes:64 {SIMSIAM} --epochs 3 --backbone.drop_path_rate 0.3 --log-steps 1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to: 12 steps in 3 epochs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(f"{LINE} --out {run}") == 0
    return run


def assert_the_same(run: Path, whole: Path) -> None:
    """Weights, optimizer and every logged figure but times, each step once."""
    assert_equal(state(run), state(whole))
    timeless = [name for name in rows(whole)[0] if not name.startswith(("seconds", "images_per", "memory"))]
    assert [[row[name] for name in timeless] for row in rows(run)] == [
        [row[name] for name in timeless] for row in rows(whole)
    ]
    assert (run / "evaluation.csv").read_text() == (whole / "evaluation.csv").read_text()


SIGNALLED = f"--data shapes:640 {SIMSIAM} --epochs 2 --log-steps 7 --in-memory off --workers 2 --knn-epochs 0"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that gets no signal: 80 steps in 2 epochs."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert pretrain(f"{SIGNALLED} --out {run}") == 0
    return run


@pytest.mark.fault("SIGINT, SIGTERM or SIGUSR1", "saved after the step; the same command resumes, on a CPU bit for bit")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_save_and_leave(number: signal.Signals, reference: Path, tmp_path: Path) -> None:
    """Sent to all its processes, loader's workers included, in the middle of an epoch."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hardviews.cli", "pretrain", *f"{TINY} {SIGNALLED} --out {run}".split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics, deadline = run / "metrics.csv", time.monotonic() + LIMIT
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number, said
    assert f"stopped by {number.name}, saved after" in said
    assert f"the same command with --out {run} resumes" in said
    assert "Traceback" not in said
    done = state(run)["step"]
    assert len(rows(run)) == done < 80
    assert pretrain(f"{SIGNALLED} --out {run}") == 0
    assert_equal(state(run), state(reference))
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(80)]
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(reference)]


@pytest.mark.fault("signal while the backbone is measured", "leaves at the next batch of images; measured later")
@pytest.mark.parametrize(("extraction", "done"), [(0, 0), (3, 12)])
def test_a_signal_while_the_backbone_is_measured(
    extraction: int, done: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before the first step, and at the end, each time of training and of test images."""
    run, begun = tmp_path / "run", list[int]()

    def signalled(*args: Any, on_batch: Callable[[int], None], **more: Any) -> Features:
        begun.append(0)

        def seen(images: int) -> None:
            if len(begun) == extraction + 1:
                os.kill(os.getpid(), signal.SIGTERM)
            on_batch(images)

        return extract(*args, on_batch=seen, **more)

    with monkeypatch.context() as patch:
        patch.setattr("hardviews.setup.monitoring.extract", signalled)
        assert pretrain(f"{LINE} --out {run}") == 128 + signal.SIGTERM
    assert len(begun) == extraction + 1
    said = capsys.readouterr().err
    moment = f", saved after {several(done, 'step')}" if done else " before the first step"
    assert f"stopped by SIGTERM{moment}; the same command with --out {run} resumes" in said
    assert all(step != done for values in RunFolder(run).evaluations().values() for step, _ in values)
    assert pretrain(f"{LINE} --out {run}") == 0
    assert_the_same(run, whole)


@pytest.mark.fault("lack of memory or data while the backbone is measured", "said, and training continues")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("tried to allocate 3 GiB"), "out of memory on cpu"),
        (None, "out of memory on cpu"),
        (InputError("the test images are gone"), "the test images are gone"),
    ],
)
def test_a_measurement_that_fails_ends_no_run(
    error: Exception | None, said: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"

    def fails(backbone: Any, source: Any, *args: Any, pixels: bool, **more: Any) -> Features:
        if not pixels:  # which are measured before the first step
            if error:
                raise error
            torch.empty(1 << 50)  # in torch's own words
        return extract(backbone, source, *args, pixels=pixels, **more)

    with monkeypatch.context() as patch:
        patch.setattr("hardviews.setup.monitoring.extract", fails)
        assert pretrain(f"{LINE} --out {run}") == 0
    shown = capsys.readouterr().out
    assert f"after 12 steps: not measured ({said}); training continues" in shown
    assert "trained backbone" not in shown.replace("untrained backbone", "")
    assert pretrain(f"{LINE} --out {run}") == 0  # which makes up for it
    assert_the_same(run, whole)


@pytest.mark.fault("checkpoint cut short", "said, and the one before it is taken")
@pytest.mark.fault("checkpoint with a flipped bit", "said, and the one before it is taken")
@pytest.mark.fault("full disk while a checkpoint is saved", "said, and training continues; the next one is saved")
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_and_a_full_disk(damage: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints" / "last.pt"
    content = last.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    last.write_bytes(content[:half] if damage == "cut" else flipped)
    last.with_name("last.pt.part").symlink_to("/dev/full")  # the first is written there, and no other
    found = process(f"{LINE} --checkpoint-steps 2 --out {run}")
    assert found.returncode == 0, found.stderr
    assert f"{last}: can't be loaded as a checkpoint" in found.stdout
    assert "using the checkpoint before it" in found.stdout
    assert "resuming at step 8 of 12" in found.stdout
    assert (
        f"after 10 steps: no checkpoint could be saved ({last}: No space left on device); training continues"
        in found.stdout
    )
    assert_the_same(run, whole)
    assert Checkpoints(run / "checkpoints").newest()[1] == []


def process(line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hardviews.cli", "pretrain", *TINY.split(), *line.split()]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT, cwd=REPOSITORY)


def test_without_any_whole_checkpoint_nothing_is_started_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain(f"{LINE} --out {run}") == 0
    for file in (run / "checkpoints").glob("*.pt"):
        file.write_bytes(b"")
    assert pretrain(f"{LINE} --out {run}") == 1
    assert "there is no other checkpoint to resume from" in capsys.readouterr().err


def test_some_epochs_are_kept_for_good(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(f"{LINE} --keep-epochs 2 --out {run}") == 0
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["before.pt", "epoch-0002.pt", "last.pt"]
    checkpoints = Checkpoints(run / "checkpoints")
    assert checkpoints.of_epoch(2).samefile(checkpoints.before)  # which takes no room
    assert_the_same(run, whole)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_stops_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a while neither metrics, measurements nor checkpoints can be written; once they can, none is missing."""
    run = tmp_path / "run"
    save, append, calls = Checkpoints.save, RunFolder.append_metrics, []

    def saving(self: Checkpoints, saved: dict[str, Any], epoch: int | None = None) -> None:
        full() if saved["step"] == 4 else save(self, saved, epoch)

    def appending(self: RunFolder, new: Any) -> None:
        calls.append(len(new))
        full() if 3 <= len(calls) <= 6 else append(self, new)

    measure, measured = RunFolder.append_evaluation, []

    def measuring(self: RunFolder, *entry: Any) -> None:
        measured.append(entry)
        full() if len(measured) == 1 else measure(self, *entry)

    monkeypatch.setattr(Checkpoints, "save", saving)
    monkeypatch.setattr(RunFolder, "append_metrics", appending)
    monkeypatch.setattr(RunFolder, "append_evaluation", measuring)
    assert pretrain(f"{LINE} --out {run}") == 0
    said = capsys.readouterr().out
    assert "after 4 steps: no checkpoint could be saved" in said
    assert said.count("metrics.csv: No space left on device; training continues") == 1
    assert_the_same(run, whole)


@pytest.mark.fault("file system that takes no checkpoint at all", "training continues; at the end a clear line")
def test_a_run_that_can_not_be_saved_at_its_end_says_so(tmp_path: Path) -> None:
    """The file system itself refuses the file: its size is limited to less than the checkpoint's."""
    code = (
        "import resource, signal, sys; from hardviews.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); sys.exit(main(sys.argv[1:]))"
    )
    run = tmp_path / "run"
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --telemetry 0 --knn-epochs 0 --workers 0 --out {run}"
    command = [sys.executable, "-c", code, "pretrain", *TINY.split(), *line.split()]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert "training continues" in found.stdout
    assert "trained, but not saved:" in found.stderr
    assert "File too large" in found.stderr
    assert "no checkpoint was written yet" in found.stderr
    assert list((run / "checkpoints").iterdir()) == []
    assert len(rows(run)) == 8


@pytest.mark.fault("loss or gradient that is not finite", "the step leaves no trace, and is counted")
@pytest.mark.fault("steps in a row that are not finite", "back once, at a lower rate; then a clear line")
def test_steps_that_are_not_finite(tmp_path: Path) -> None:
    run = tmp_path / "run"
    spoilt = SIMSIAM.replace("simsiam", "tests.runs.spoilt.Spoilt")
    line = f"--data shapes:64 {spoilt} --epochs 4 --knn-epochs 0 --log-steps 1 --max-nonfinite-steps 3"
    found = process(f"{line} --out {run}")
    assert found.returncode == 1
    for step in (2, 4):
        assert f"step {step}: skipped, the loss, a cost or a gradient is not finite" in found.stdout
    assert "step 11: 3 steps in a row were not finite: going back to step 8, at 0.1 of" in found.stdout
    [error] = found.stderr.splitlines()
    assert "step 11: 3 steps in a row were not finite, also at a lower rate" in error
    assert str(run / "checkpoints" / "last.pt") in error
    assert [row["skipped"] for row in rows(run)] == ["1" if step in (2, 4) or step >= 9 else "0" for step in range(12)]
    assert all(torch.isfinite(value).all() for value in state(run)["method"].values())


class Spoilt:
    """Makes losses not finite at some steps, however often they come by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int, once: bool = False) -> None:
        loss = Method.loss
        left = list(steps)

        def spoilt(method: Any, encoding: Any) -> torch.Tensor:
            found: torch.Tensor = loss(method, encoding)
            if method.progress.step in left:
                if once:
                    left.remove(method.progress.step)
                return found * torch.nan
            return found

        monkeypatch.setattr(Method, "loss", spoilt)


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    Spoilt(monkeypatch, 5)
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 3 --knn-epochs 0 --out {run}") == 0
    assert [row["skipped"] for row in rows(run)] == ["1" if step == 5 else "0" for step in range(12)]
    assert rows(run)[5]["loss"] == ""
    assert "step 5: skipped, the loss, a cost or a gradient is not finite" in capsys.readouterr().out
    assert all(torch.isfinite(value).all() for value in state(run)["method"].values())


@pytest.mark.parametrize("method", ["simsiam", "simclr"])  # of SGD and of LARS
def test_a_bad_first_step_spoils_no_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    run = tmp_path / "run"
    Spoilt(monkeypatch, 0)
    line = {"simsiam": SIMSIAM, "simclr": SIMCLR}[method]
    assert pretrain(f"--data shapes:64 {line} --epochs 2 --knn-epochs 0 --out {run}") == 0
    assert [row["skipped"] for row in rows(run)] == ["1", *"0000000"]
    assert all(value.abs().max() < 100 for value in state(run)["method"].values())


def test_sgd_takes_a_last_layer_that_was_frozen_for_an_epoch(tmp_path: Path) -> None:
    line = f"{LINES['dino']} --optimizer sgd --lr 0.03 --epochs 2 --knn-epochs 0 --out {tmp_path}/run"
    assert main(["pretrain", *line.split()]) == 0
    assert not any(int(row["skipped"]) for row in rows(tmp_path / "run"))


@pytest.mark.parametrize("method", ["simsiam", "dino"])
def test_a_deterministic_run_repeats(tmp_path: Path, method: str) -> None:
    """Also on a CPU: every kernel that a run asks for is there."""
    try:
        for run in ("one", "other"):
            line = f"{LINES[method]} --knn-epochs 0 --deterministic true --out {tmp_path / run}"
            assert main(["pretrain", *line.split()]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(state(tmp_path / "one")["method"], state(tmp_path / "other")["method"])


def test_too_many_in_a_row_go_back_once_at_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, line = tmp_path / "run", f"--data shapes:64 {SIMCLR} --epochs 4 --knn-epochs 0 --max-nonfinite-steps 3"
    Spoilt(monkeypatch, 5, 6, 7, once=True)
    assert pretrain(f"{line} --out {run}") == 0
    said = capsys.readouterr().out
    assert "step 7: 3 steps in a row were not finite: going back to step 4, at 0.1 of the learning rate" in said
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(16)]
    monkeypatch.undo()
    plain = tmp_path / "plain"
    assert pretrain(f"{line} --out {plain}") == 0
    for ours, theirs in zip(rows(run), rows(plain), strict=True):
        factor = 1.0 if int(ours["step"]) < 4 else 0.1
        assert float(ours["lr"]) == pytest.approx(factor * float(theirs["lr"]), rel=1e-6)
    assert state(run)["rate_factor"] == 0.1


def test_then_it_stops_with_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    Spoilt(monkeypatch, *range(5, 100))
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 4 --knn-epochs 0 --max-nonfinite-steps 3 --out {run}") == 1
    [error] = capsys.readouterr().err.splitlines()
    assert "step 7: 3 steps in a row were not finite, also at a lower rate" in error
    assert str(run / "checkpoints" / "last.pt") in error
    assert state(run)["step"] == 4


def test_a_run_that_learned_nothing_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer skipped steps than it would go back for, but all of the last epoch."""
    run = tmp_path / "run"
    Spoilt(monkeypatch, 4, 5, 6, 7)
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 2 --knn-epochs 0 --out {run}") == 1
    assert "every step of the last epoch was skipped" in capsys.readouterr().err
    assert not (run / "summary.json").exists()


def test_a_log_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    line = f"--data shapes:64 {SIMSIAM} --epochs 1 --knn-epochs 0 --tensorboard true --out {tmp_path / 'run'}"
    assert pretrain(line) == 0
    assert "TensorBoard: [Errno 28] No space left on device; training continues without it" in capsys.readouterr().out
