"""A long run holds no more memory, files and threads at its end than after its warm-up, and neither do its workers.

``make endure`` takes 5,120 steps each of two methods, ``make test`` a sample of one.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.runs.test_pretrain import SIMSIAM, rows

FULL = bool(os.environ.get("ENDURE"))
IMAGES, BATCH = 128, 8
SHORT = (12, 4)  # epochs, and of these warm-up
EPOCHS, WARM_UP = (320, 32) if FULL else SHORT
BOUND = 5.0 if FULL else 20.0  # MiB by which a process may have grown since the warm-up, with 95 % confidence
BLOCKS = 16 if FULL else 6  # of the samples, whose neighbours are much alike
CADENCE = 0.1 if FULL else 0.03  # seconds
LIMIT = 3600  # seconds after which a run is taken to hang
REPOSITORY = Path(__file__).parents[2]

COMMON = (
    f"--image-size 32 --batch-size {BATCH} --in-memory off --workers 1 --log-steps 5 --checkpoint-steps 10 --knn-k 5 "
    f"--knn-epochs 4 --telemetry 64 --gallery 8 --tensorboard true"
)
RESNET = "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --backbone.stem imagenet"
VIT = (
    "--method.prototypes 32 --method.hidden_dim 16 --plan.locals 2 --backbone vit_tiny_patch16_224 "
    "--backbone.patch_size 8 --backbone.embed_dim 24 --backbone.num_heads 2 --backbone.depth 2"
)
LINES = {"simsiam": f"{SIMSIAM} {RESNET} {COMMON}", "dino": f"--method dino {VIT} {COMMON}"}


@dataclass
class Held:
    """What a process held, as seen from outside at a steady cadence."""

    memory: list[float] = field(default_factory=list)  # resident, MiB
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        self.memory.append(int(status["VmRSS"].split()[0]) / 1024)
        self.files.append(files)
        self.threads.append(int(status["Threads"]))

    def growth(self) -> tuple[float, float]:
        """MiB of a line through the medians of blocks, from the first to the last, and half its 95 % interval."""
        medians = [float(np.median(block)) for block in np.array_split(self.memory, BLOCKS)]
        line = stats.linregress(range(BLOCKS), medians)
        half = stats.t.ppf(0.975, BLOCKS - 2) * np.nan_to_num(line.stderr)  # not a number where all are the same
        return line.slope * (BLOCKS - 1), float(half) * (BLOCKS - 1)

    def assert_flat(self) -> None:
        grown, half = self.growth()
        assert grown + half < BOUND, self.memory
        for counts in (self.files, self.threads):
            first, *_, last = np.array_split(counts, BLOCKS)
            assert last.min() <= np.median(first), counts  # more are open while batches are handed over


def soaked(line: str, folder: Path, epochs: int, warm_up: int) -> list[Held]:
    """A run from after its warm-up to its last epoch: its process and the worker that stayed."""
    run = folder / "run"
    line = f"{line} --epochs {epochs} --keep-epochs {warm_up} --data {folder / 'data'} --out {run}"
    command = [sys.executable, "-m", "hardviews.cli", "pretrain", *line.split()]
    with (folder / "log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY)
    first, last = (run / "checkpoints" / f"epoch-{epoch:04d}.pt" for epoch in (warm_up, epochs))
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and not first.exists() and time.monotonic() < deadline:
        time.sleep(CADENCE)
    found: dict[int, Held] = {}
    while process.poll() is None and not last.exists() and time.monotonic() < deadline:
        for pid in (process.pid, *children(process.pid)):
            try:
                found.setdefault(pid, Held()).look(pid)
            except (OSError, KeyError):  # it has ended
                continue
        time.sleep(CADENCE)
    assert process.wait(120) == 0, (folder / "log").read_text()
    assert len(rows(run)) == epochs * IMAGES // BATCH
    longest = max(len(held.memory) for held in found.values())
    return [held for held in found.values() if len(held.memory) > 0.9 * longest]  # not those of a measurement


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(IMAGES):
        label = tmp_path / "data" / "ab"[index % 2]
        label.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (40, 36 + index % 7, 3), dtype=np.uint8)
        Image.fromarray(noise).save(label / f"{index}.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "method", ["simsiam", pytest.param("dino", marks=pytest.mark.skipif(not FULL, reason="make endure"))]
)
def test_nothing_grows(method: str, folder: Path) -> None:
    found = soaked(LINES[method], folder, EPOCHS, WARM_UP)
    assert len(found) == 2
    for name, held in zip(("run", "worker"), found, strict=True):
        grown, half = held.growth()
        print(f"{method}, {name}: {np.median(held.memory):.0f} MiB, {grown:+.2f} ± {half:.2f} MiB, ", end="")
        print(f"files {min(held.files)} to {max(held.files)}, threads {min(held.threads)} to {max(held.threads)}")
        held.assert_flat()


@pytest.mark.skipif(not FULL, reason="make endure")
def test_a_leak_is_seen(folder: Path) -> None:
    line = LINES["simsiam"].replace("--method simsiam", "--method tests.endure.leaking.Leaking")
    leaking, _ = soaked(line, folder, *SHORT)
    grown, half = leaking.growth()
    assert grown - half > BOUND
    assert leaking.files[-1] > leaking.files[0] + 50


@pytest.mark.parametrize("leak", ["memory", "files"])
def test_what_grows_is_not_flat(leak: str) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 200)
    held = Held(list(900 + noise), [12 + int(abs(n) > 1) for n in noise], [3] * 200)
    held.assert_flat()
    if leak == "memory":
        held.memory = [mb + 2 * BOUND * at / 200 for at, mb in enumerate(held.memory)]
    else:
        held.files = [count + (at > 150) for at, count in enumerate(held.files)]
    with pytest.raises(AssertionError):
        held.assert_flat()
