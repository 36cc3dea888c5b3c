"""``pretrain --doctor``: sound set-ups of all methods pass, injected faults fail, a run's folder stays as it is."""

import json
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardviews.cli import main
from hardviews.commands import doctor
from hardviews.commands.checks import (
    Check,
    check_disk,
    check_finite,
    check_gradients,
    check_learning,
    check_memory,
    check_speed,
)  # fmt: skip
from hardviews.commands.fixed_batch import Learned, learn
from hardviews.commands.pretrain import parse
from hardviews.commands.sampling import Sample
from hardviews.commands.settling import settle
from hardviews.commands.trials import Trial, Trials, lone_fabric
from hardviews.data.shapes import Shapes
from hardviews.methods.base import TargetEncoding
from hardviews.methods.simsiam import SimSiam, SimSiamEncoding
from hardviews.training.gallery import KEPT
from hardviews.training.options import PretrainOptions
from tests.commands.test_pretrain import LINES, SIMSIAM, TINY, pretrain

GIB = 1 << 30
SHAPES = Shapes(count=32)
SAMPLE = Sample([SHAPES.read(index) for index in range(32)])


class Deaf(SimSiam):
    """Its backbone gets no gradient, though the loss falls."""

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> SimSiamEncoding:
        with torch.no_grad():
            features = [self.backbone(view) for view in views]
        projections = torch.stack([self.projector(feature) for feature in features])
        return SimSiamEncoding(torch.stack([self.predictor(p) for p in projections]), projections.detach())


def noise(seed: int) -> bytes:
    """A picture, as a PNG."""
    pixels, out = np.random.default_rng(seed).integers(0, 256, (40, 36 + seed, 3), dtype=np.uint8), BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def diagnosed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    """The checks by name, of an in-process doctor."""
    capsys.readouterr()
    assert main(["pretrain", *argv, "--doctor", "--json"]) == code
    printed = capsys.readouterr()
    found = {check["name"]: check for check in json.loads(printed.out)["checks"]}
    failed = [name for name, check in found.items() if check["verdict"] == "failed"]
    assert bool(failed) == bool(code)
    assert not failed or f"failed: {', '.join(failed)}\n" in printed.err
    assert all(check["remedy"] for check in found.values() if check["verdict"] != "ok")
    return found


@pytest.mark.parametrize("method", sorted(LINES))
def test_sound_set_ups_pass(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = diagnosed(capsys, *LINES[method].split(), "--devices", "2", "--out", str(tmp_path / "run"))
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(
        ("folder", "disk", "data", "views", "steps", "memory", "learning", "gradients", "speed", "time"), "ok"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run-views.png"]
    assert found["memory"]["figures"]["measured_up_to"] == 8  # a process's share of 16
    assert found["speed"]["figures"]["images_per_second"] > 0
    with Image.open(tmp_path / "run-views.png") as opened:
        pixels = np.asarray(opened)
    frames = (pixels == KEPT).all(-1)
    assert min(opened.size) > 300
    assert frames.any(1).sum() > 6 * 100  # the kept of six pictures, one below the other


@pytest.mark.parametrize("method", sorted(LINES))
def test_rates_that_teach_nothing_fail(method: str) -> None:
    def verdict(*rate: str) -> Check:
        options, _ = parse([*LINES[method].split(), "--accelerator", "cpu", *rate])
        settled, own = settle(options, SHAPES)
        return check_learning(learn(settled, own, lone_fabric(settled), SAMPLE, images=8, seconds=60))

    assert verdict("--lr", "0").remedy == "a higher --lr"
    assert "a lower --lr" in verdict("--lr", "1e5").remedy


def test_a_rate_of_zero_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = diagnosed(capsys, *LINES["dino"].split(), "--lr", "0", "--out", str(tmp_path / "run"), code=1)
    assert "it does not fall; the weights hardly move" in found["learning"]["says"]


def test_in_a_process_of_its_own_beside_a_run(tmp_path: Path) -> None:
    """The table, for people; the folder of a run that is there stays as it is, to the last byte."""
    run = tmp_path / "run"
    line = f"--data shapes:64 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {run}"
    assert pretrain(line) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "hardviews.cli", "pretrain", *TINY.split(), *line.split(), "--doctor"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path).stdout
    lines = {text.split()[0]: text for text in printed.splitlines()}
    assert "holds this run, which goes on" in lines["folder"]
    assert all(" ok " in text for text in lines.values())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()} == before


def test_faults_of_all_kinds_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken pictures, a folder of something else, a backbone that no gradient reaches."""
    pictures, run = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    run.mkdir()
    (run / "diary.txt").write_text("mine")
    for index in range(40):
        (pictures / f"{index:02}.png").write_bytes(b"not a picture" if index in (3, 39) else noise(index))
    line = [*TINY.split(), *SIMSIAM.replace("simsiam", f"{__name__}.Deaf").split(), "--data", str(pictures)]
    line += ["--batch-size", "16", "--epochs", "2", "--workers", "1", "--out", str(run)]
    found = diagnosed(capsys, *line, code=1)
    assert [n for n, check in found.items() if check["verdict"] == "failed"] == ["folder", "data", "gradients"]
    assert found["data"]["says"].startswith("38 of 40 pictures decode")
    assert {Path(path).name for path in found["data"]["figures"]["unreadable"]} == {"03.png", "39.png"}
    assert found["gradients"]["says"] == "reach nothing of backbone"
    assert found["speed"]["figures"]["seconds_data"] > 0
    assert [path.name for path in run.iterdir()] == ["diary.txt"]
    tolerant = diagnosed(capsys, *line, "--max-unreadable", "0.1", code=1)
    assert tolerant["data"]["verdict"] == "warning"


def test_data_none_of_which_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(16):
        (tmp_path / f"{index}.png").write_bytes(b"not a picture")
    line = [*TINY.split(), *SIMSIAM.split(), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line, code=1)
    assert list(found) == ["folder", "disk", "data"]


def test_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for index in range(24):
            content = BytesIO(b"not a picture" if index == 5 else noise(index))
            entry = tarfile.TarInfo(f"{index:03}.png")
            entry.size = len(content.getbuffer())
            tar.addfile(entry, content)
    line = f"{TINY} {SIMSIAM} --allow-pipe true --epoch-images 24 --max-unreadable 0.1 --out {tmp_path / 'run'}"
    found = diagnosed(capsys, *line.split(), "--data", f"pipe:cat {tmp_path}/0.tar")
    assert found["data"]["says"].startswith("23 of 24 pictures decode")
    assert found["data"]["verdict"] == "warning"
    assert found["speed"]["figures"]["seconds_data"] > 0


def test_auto_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(options: PretrainOptions) -> PretrainOptions:
        options.batch_size = 32
        return options

    monkeypatch.setattr(doctor, "settle_batch_size", found)
    checks = diagnosed(capsys, *LINES["simsiam"].split(), "--batch-size", "auto", "--out", str(tmp_path / "run"))
    assert checks["batch-size"]["says"] == "auto is 32"
    assert checks["memory"]["figures"]["measured_up_to"] == 32


def test_a_device_without_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("hardviews.training.step.draw", exhausted)
    found = diagnosed(capsys, *LINES["simsiam"].split(), "--out", str(tmp_path / "run"), code=1)
    assert "ran out" in found["memory"]["says"]
    assert list(found) == ["folder", "disk", "data", "memory"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pretrain --data shapes:8 --doctor", "batch of 256 images is larger than the data"),
        ("pretrain --data shapes:64 --batch-size 64 --accumulate 5 --doctor", "can't be shared evenly"),
        ("pretrain --data nowhere/at/all --doctor", "no such file or folder"),
        ("compare --data shapes:64 --doctor", "give it to hardviews pretrain"),
    ],
)
def test_what_no_run_could_be_started_with(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def learned(losses: list[float], change: float = 0.01, unreached: tuple[str, ...] = ()) -> Learned:
    return Learned(8, losses, [change] * len(losses), list(unreached), ["backbone.a", "backbone.b", "head.a"])


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (check_learning(learned([4.0, 3.0, 2.0, 1.0])), "ok"),
        (check_learning(learned([4.0] * 8)), "failed"),
        (check_learning(learned([4.0, 3.0, 5.0, 4.1])), "failed"),
        (check_learning(learned([4.0, float("nan")])), "failed"),
        (check_learning(learned([4.0, 3.0, 2.0, 1.0], change=0.3)), "warning"),
        (check_learning(learned([4.0, 3.0, 2.0, 1.0], change=0.9)), "failed"),
        (check_gradients(learned([1.0])), "ok"),
        (check_gradients(learned([1.0], unreached=("backbone.b",))), "warning"),
        (check_gradients(learned([1.0], unreached=("head.a",))), "failed"),
        (check_memory(Trials([Trial(2, GIB, {}), Trial(4, 2 * GIB, {})]), 8, 6 * GIB, False), "ok"),
        (check_memory(Trials([Trial(2, GIB, {}), Trial(4, 2 * GIB, {})]), 8, 4 * GIB + 1, False), "warning"),
        (check_memory(Trials([Trial(2, GIB, {}), Trial(4, 2 * GIB, {})]), 8, 3 * GIB, False), "failed"),
        (check_memory(Trials([Trial(2, GIB, {})], too_large=4), 8, 60 * GIB, True), "failed"),
        (check_speed({"train": 1.0}, 0.9, 8, 1, PretrainOptions(workers=2)), "ok"),
        (check_speed({"train": 1.0}, 2.0, 8, 1, PretrainOptions(workers=2)), "warning"),
        (check_speed({"train": 1.0}, 0.9, 8, 1, PretrainOptions(workers=0)), "warning"),
        (check_disk(GIB, 3 * GIB, "/"), "ok"),
        (check_disk(2 * GIB, 3 * GIB, "/"), "warning"),
        (check_disk(4 * GIB, 3 * GIB, "/"), "failed"),
        (check_finite(Trials([Trial(2, GIB, {}), Trial(4, GIB, {}, finite=False)])), "failed"),
    ],
)
def test_verdicts(check: Check, verdict: str) -> None:
    assert check.verdict == verdict
    assert bool(check.remedy) == (verdict != "ok")
