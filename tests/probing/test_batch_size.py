"""``--batch-size auto``: what is found, by memory that is faked and by real steps, and that a run keeps to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from lightning_fabric import Fabric

from hardviews.cli import main
from hardviews.commands.pretrain import parse
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing import batch_size, steps
from hardviews.probing.batch_size import agree_on_batch_size, largest, largest_that_fits, shares_of
from hardviews.probing.sample import DecodedSample
from hardviews.probing.steps import ProbeStep, ProbeSteps, grow, lone_fabric, probe_step, sizes_up_to
from hardviews.setup.defaults import resolve_defaults
from hardviews.training import memory
from tests.runs.test_pretrain import LINES, SIMSIAM, assert_equal, pretrain, state

GIB = 1 << 30


def options_of(*more: str) -> PretrainOptions:
    return parse([*LINES["simsiam"].split(), "--accelerator", "cpu", "--batch-size", "auto", *more])[0]


def device_of(per_image: int, kept: int, fits: int) -> Any:
    """Steps on a device that takes so many bytes and an image more, and has no more for larger batches."""

    def tried(step: Any, sample: DecodedSample, images: int) -> ProbeStep:
        if images > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return ProbeStep(images, kept + per_image * images, {"train": 1e-6})

    return tried


@pytest.mark.parametrize(
    ("more", "free", "found"),
    [
        ((), 100 * GIB, 512),  # the device says no at 1024, whatever is said to be free
        ((), 10 * GIB, 64),  # 8 GiB may be taken, which 64 x 0.1 + 1 GiB do and twice as many do not
        (("--grad-accumulation", "3"), 10 * GIB, 3 * 16),
        (("--devices", "3"), 10 * GIB, 3 * 64),
        (("--devices", "2", "--grad-accumulation", "2"), 10 * GIB, 2 * 64),
        (("--data", "shapes:63"), 10 * GIB, 32),  # the data has no more
    ],
)
def test_the_largest_that_fits(more: tuple[str, ...], free: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_tried", device_of(GIB // 10, GIB, fits=600))
    monkeypatch.setattr(batch_size, "available", lambda *_: free)
    assert largest_that_fits(options_of("--data", "shapes:5000", *more))[0] == found


def test_never_more_than_is_sensible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_tried", device_of(1, 1, fits=1 << 40))
    assert largest_that_fits(options_of("--data", "shapes:9000"))[0] == 4096


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_tried", device_of(GIB, GIB, fits=1))
    with pytest.raises(InputError, match="there is no room for 2 images"):
        largest_that_fits(options_of())


def test_a_cpu_is_never_asked_for_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process that takes too much is killed: what is too large is predicted, not tried."""
    tried: list[int] = []

    def watched(step: Any, sample: DecodedSample, images: int) -> ProbeStep:
        tried.append(images)
        return ProbeStep(images, GIB + images * GIB // 10, {"train": 1e-6})

    monkeypatch.setattr(steps, "_tried", watched)
    monkeypatch.setattr(batch_size, "available", lambda *_: 10 * GIB)
    assert largest_that_fits(options_of("--data", "shapes:5000"))[0] == 64
    assert tried == [2, 4, 8, 16, 32, 64]


def test_steps_that_take_long_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def slow(step: Any, sample: DecodedSample, images: int) -> ProbeStep:
        tried.append(images)
        return ProbeStep(images, GIB + images * GIB // 10, {"train": 100.0 * images})

    monkeypatch.setattr(steps, "_tried", slow)
    monkeypatch.setattr(batch_size, "available", lambda *_: 10 * GIB)
    assert largest_that_fits(options_of("--data", "shapes:5000"))[0] == 64
    assert tried == [2, 4]


def test_shares() -> None:
    assert shares_of(64, processes=1, parts=1, least=2) == [2, 4, 8, 16, 32, 64]
    assert shares_of(100, processes=3, parts=2, least=2) == [4, 8, 16, 32]
    assert shares_of(8, processes=1, parts=3, least=1) == [3, 6]
    assert shares_of(3, processes=2, parts=1, least=2) == [2]  # the loader says that this is more than the data


def test_predictions_follow_the_largest_steps() -> None:
    found = ProbeSteps([ProbeStep(2, 100, {}), ProbeStep(4, 100, {}), ProbeStep(8, 140, {}), ProbeStep(16, 180, {})])
    assert [found.memory(images) for images in (4, 16, 32)] == [100, 180, 180 + 16 * 5]
    assert largest([2, 4, 8, 16, 32, 64], found, most=400) == 32
    assert largest([2, 4, 8, 16, 32, 64], found, most=400, waiting=8) == 16
    assert largest([2, 4, 8], ProbeSteps([ProbeStep(2, 100, {})], too_large=4), most=400) == 2
    assert ProbeSteps([ProbeStep(2, 100, {})]).memory(8) == 400


def test_trial_steps_begin_with_few_images() -> None:
    """A CPU that has no room for the whole batch must not be asked for half of it."""
    assert sizes_up_to(4096, 1) == [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert sizes_up_to(96, 3) == [12, 24, 48, 96]
    assert sizes_up_to(2, 1) == [2]


def test_the_smallest_of_all_processes_counts() -> None:
    class Processes:
        device = torch.device("cpu")

        def all_reduce(self, own: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "min"
            return torch.stack([own, torch.tensor(96)]).amin()

    resolved = replace(options_of(), batch_size=128)
    assert agree_on_batch_size(cast(Fabric, Processes()), resolved).batch_size == 96


def test_memory_is_predicted_as_it_is_measured() -> None:
    """Of real steps on this CPU: what those of up to 32 images say of 256 is within a fifth of what these take."""
    given = replace(options_of("--image-size", "64", "--backbone.channels", "32,32,64,64"), batch_size=256)
    resolved, method = resolve_defaults(given, Shapes(count=10))
    step = probe_step(resolved, method, lone_fabric(resolved), steps_per_epoch=1)
    sample = DecodedSample([torch.zeros(64, 64, 3, dtype=torch.uint8)] * 8)
    small = grow(step, sample, [8, 16, 32], seconds=60, most=1 << 60)
    measured = grow(step, sample, [256], seconds=60, most=1 << 60).memory(256)
    before = memory.resident()
    assert small.memory(256) == pytest.approx(measured, rel=0.2)
    assert measured > small.memory(32) > 0
    assert before <= memory.peak(torch.device("cpu"))


def test_a_run_keeps_to_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plain = tmp_path / "run", tmp_path / "plain"
    line = f"--data shapes:70 {SIMSIAM} --epochs 1 --knn-epochs 0 --accelerator cpu"
    assert pretrain(f"{line} --batch-size auto --out {run}") == 0  # by a process of its own
    assert yaml.safe_load((run / "config.yaml").read_text())["batch_size"] == 64
    assert "batch-size: 64: " in capsys.readouterr().err
    assert pretrain(f"{line} --batch-size 64 --out {plain}") == 0
    assert_equal(state(run), state(plain))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(batch_size, "in_own_process", never)  # a run that resumes looks for nothing
    assert pretrain(f"{line} --batch-size auto --out {run}") == 0
    assert pretrain(f"{line} --batch-size auto --seed 5 --out {run}") == 2
    assert "seed is 0 there and 5 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("compare --data shapes:64 --batch-size auto", "batch-size: auto may come out differently"),
        ("pretrain --data shapes:64 --batch-size autp", "a whole number or auto"),
        ("pretrain --data shapes:64 --method simclr --grad-accumulation 2 --batch-size auto", "compares the images"),
    ],
)
def test_bad_input_is_one_line(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "in_own_process", lambda do, options: do(options))  # here
    assert main([*line.split(), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.replace("batch-size: looking for the largest that fits\n", "")
    assert says in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both versions, of one's own group and those around it; what the kernel would drop first does not count."""
    groups = tmp_path / "cgroup"

    def group(folder: Path, names: tuple[str, str], limit: str, used: int, statistics: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip((*names, "memory.stat"), (limit, str(used), statistics), strict=True):
            (folder / name).write_text(f"{text}\n")

    monkeypatch.setattr(memory, "CGROUPS", groups)
    monkeypatch.setattr(memory, "_free", lambda: 1 << 40)
    before = memory.available(torch.device("cpu"))
    assert before > 1 << 39
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("4:memory:/a/b\n0::/c/d\n")
    (tmp_path / "self/status").write_text("VmHWM: 200 kB\nVmRSS: 100 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    own = 100 * 1024
    second = ("memory.max", "memory.current")
    group(groups / "c/d", second, "max", 5, "inactive_file 1")
    group(groups / "c", second, "5000", 3000, "anon 7\ninactive_file 1000")
    assert memory.available(torch.device("cpu")) == own + 3000
    assert memory.available(torch.device("cpu"), processes=2) == own + 1500
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(groups / "memory/a/b", first, "2000", 1500, "inactive_file 9\ntotal_inactive_file 100")
    assert memory.available(torch.device("cpu")) == own + 600
