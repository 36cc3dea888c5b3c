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
from hardviews.commands.pretrain import parse
from hardviews.data.sources.shapes import Shapes
from hardviews.doctor import examine as doctor
from hardviews.doctor.checks import (
    DATA_FIRST,
    Check,
    check_disk,
    check_epoch,
    check_finite,
    check_gradients,
    check_learning,
    check_memory,
    check_speed,
)  # fmt: skip
from hardviews.doctor.overfit import OverfitResult, learn
from hardviews.methods.base import TargetEncoding
from hardviews.methods.simsiam import SimSiam, SimSiamEncoding
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.sample import DecodedSample
from hardviews.probing.steps import ProbeStep, ProbeSteps, lone_fabric
from hardviews.setup.defaults import resolve_defaults
from hardviews.telemetry.gallery import KEPT
from tests.runs.test_pretrain import LINES, SIMSIAM, TINY, pretrain

GIB = 1 << 30
SHAPES = Shapes(count=32)
SAMPLE = DecodedSample([SHAPES.read(index) for index in range(32)])


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
    line = [*LINES[method].split(), "--data", "shapes:64", "--devices", "2", "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line)
    names = "folder disk epoch data content views steps memory measuring learning gradients speed time"
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(names.split(), "ok")
    assert [path.name for path in tmp_path.iterdir()] == ["run-views.png"]
    assert found["memory"]["figures"]["measured_up_to"] == 8  # a process's share of 16
    assert found["speed"]["figures"]["images_per_second"] > 0
    assert found["epoch"]["says"] == "4 steps of 16 images"
    assert found["measuring"]["figures"]["images"] == 64
    measuring = found["time"]["figures"]["seconds_measuring"]
    assert measuring == pytest.approx(
        2 * found["measuring"]["figures"]["seconds"] + found["measuring"]["figures"]["seconds_pixels"]
    )
    assert found["time"]["says"].startswith("1 epoch of 4 steps and 2 measurements: about ")
    with Image.open(tmp_path / "run-views.png") as opened:
        pixels = np.asarray(opened)
    frames = (pixels == KEPT).all(-1)
    assert min(opened.size) > 300
    assert frames.any(1).sum() > 6 * 100  # the kept of six pictures, one below the other


@pytest.mark.parametrize("method", sorted(LINES))
def test_rates_that_teach_nothing_fail(method: str) -> None:
    def verdict(*rate: str) -> Check:
        options, _ = parse([*LINES[method].split(), "--accelerator", "cpu", *rate])
        resolved, own = resolve_defaults(options, SHAPES)
        return check_learning(learn(resolved, own, lone_fabric(resolved), SAMPLE, images=8, seconds=60))

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
    assert "holds this run, which resumes" in lines["folder"]
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


def test_smaller_views_are_timed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*LINES["simsiam"].split(), "--data", "shapes:64", "--image-size", "64", "--out", str(tmp_path / "run")]
    more = "--train-resolution 0.5 --full-resolution-from 0.6 --epochs 10 --knn-epochs 0"
    found = diagnosed(capsys, *line, *more.split())
    full, small = (found[name]["figures"]["seconds_step"] for name in ("speed", "smaller"))
    assert found["smaller"]["says"].startswith("views at 50% of their size: ")
    assert found["time"]["figures"]["seconds"] == pytest.approx(10 * 4 * (0.4 * full + 0.6 * small))


def test_data_none_of_which_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(16):
        (tmp_path / f"{index}.png").write_bytes(b"not a picture")
    line = [*TINY.split(), *SIMSIAM.split(), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line, code=1)
    assert list(found) == ["folder", "disk", "epoch", "data"]


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
    assert found["measuring"]["says"] == "nothing is measured on the way: streams have no labels"
    assert "measure" not in found["time"]["says"]


def test_pictures_that_are_at_fault_are_blamed_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 black pictures: neither the rate nor the method's code is to be changed. Some of them lie in a class each."""
    for index in range(64):
        (tmp_path / "black" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "black" / str(index % 2) / f"{index}.png")
    line = [*LINES["simsiam"].split(), "--data", str(tmp_path / "black"), "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line, code=1)
    # All are alike, so those held out are trained on too, of which the check of the data tells.
    blamed = [n for n, check in found.items() if check["verdict"] != "ok"]
    assert blamed == ["data", "content", "learning", "gradients"]
    assert "nearly black" in found["content"]["says"]
    remedies = " ".join(check["remedy"] for check in found.values())
    assert "--lr" not in remedies
    assert "detach" not in remedies
    assert found["learning"]["remedy"] == found["gradients"]["remedy"] == DATA_FIRST


def test_what_is_not_measured_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(16):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{index}.png").write_bytes(noise(index))
    line = [*LINES["simsiam"].split(), "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line, "--data", str(tmp_path / "pictures"))
    assert found["measuring"]["says"].endswith(
        "pictures has no labels; its images lie in no folders, whose names would be the labels"
    )
    found = diagnosed(capsys, *line, "--knn-epochs", "0")
    assert found["measuring"]["says"] == "nothing is measured on the way: --knn-epochs is 0"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            RuntimeError("more than one element of the\nwritten-to tensor refers to a single location"),
            "to tensor refers",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "out of memory on cpu"),
        (None, "features are not finite"),
    ],
)
def test_a_measurement_that_would_fail_is_found(
    fault: Exception | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As training makes it, which would end there before its first step."""

    def encode(backbone: torch.nn.Module, images: Tensor, blocks: int = 0) -> tuple[Tensor, None]:
        assert not backbone.training
        if fault is not None:
            raise fault
        return torch.full((len(images), 4), torch.nan), None

    monkeypatch.setattr("hardviews.evaluation.features.encode", encode)
    line = [*LINES["simsiam"].split(), "--data", "shapes:64", "--out", str(tmp_path / "run")]
    found = diagnosed(capsys, *line, code=1)
    assert found["measuring"]["verdict"] == "failed"
    assert says in found["measuring"]["says"]
    assert found["time"]["verdict"] == "ok"


def test_test_data_is_measured_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of which nothing can be read."""
    for index in range(16):
        for split, content in (("train", noise(index)), ("test", b"not a picture")):
            folder = tmp_path / split / str(index % 2)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.png").write_bytes(content)
    line = [*LINES["simsiam"].split(), "--data", str(tmp_path / "train"), "--out", str(tmp_path / "run")]
    assert diagnosed(capsys, *line)["measuring"]["verdict"] == "ok"
    found = diagnosed(capsys, *line, "--test-data", str(tmp_path / "test"), code=1)
    assert "none of 16 images can be read" in found["measuring"]["says"]


def test_auto_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(options: PretrainOptions) -> PretrainOptions:
        options.batch_size = 32
        return options

    monkeypatch.setattr(doctor, "resolve_batch_size", found)
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
    assert list(found) == ["folder", "disk", "epoch", "data", "content", "memory"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pretrain --data shapes:8 --doctor", "batch of 256 images is larger than the data"),
        ("pretrain --data shapes:64 --batch-size 64 --grad-accumulation 5 --doctor", "can't be shared evenly"),
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


@pytest.mark.parametrize(
    ("images", "batch", "shares", "says", "remedy"),
    [
        (50_000, 256, 1, "195 steps of 256 images; 80 of 50,000 images (0.2%) are left over", ""),
        (5000, 128, 1, "39 steps", ""),
        (640, 64, 8, "10 steps of 64 images", ""),
        (300, 256, 1, "1 step of 256 images; 44 of 300 images (14.7%) are left over", "--batch-size 72 (4 steps, 12 l"),
        (300, 256, 8, "1 step", "--batch-size 48 (6 steps, 12 left over); more pictures"),
        (45, 8, 1, "5 steps of 8 images; 5 of 45 images (11.1%)", "--batch-size 4 (11 steps, 1 left over)"),
        (31, 16, 1, "1 step of 16 images; 15 of 31", "--batch-size 6 (5 steps, 1 left over); more pictures"),
        (7, 4, 2, "1 step of 4 images; 3 of 7", "more pictures"),
    ],
)
def test_images_enough_for_the_batch(images: int, batch: int, shares: int, says: str, remedy: str) -> None:
    found = check_epoch(images, PretrainOptions(batch_size=batch), shares)
    assert says in found.says
    assert found.remedy.startswith(remedy)
    assert found.verdict == ("warning" if remedy else "ok")


def learned(losses: list[float], change: float = 0.01, unreached: tuple[str, ...] = ()) -> OverfitResult:
    return OverfitResult(8, losses, [change] * len(losses), list(unreached), ["backbone.a", "backbone.b", "head.a"])


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (check_learning(learned([4.0, 3.0, 2.0, 1.0])), "ok"),
        (check_learning(learned([4.0] * 8)), "failed"),
        (check_learning(learned([4.0, 3.0, 5.0, 4.1])), "failed"),
        (check_learning(learned([4.0, float("nan")])), "failed"),
        (check_learning(learned([4.0, 3.0, 2.0, 1.0], change=0.3)), "warning"),
        (check_learning(learned([4.0, 3.0, 2.0, 1.0]), data_at_fault=True), "ok"),
        (check_learning(learned([4.0, 3.0, 2.0, 1.0], change=0.9)), "failed"),
        (check_gradients(learned([1.0])), "ok"),
        (check_gradients(learned([1.0], unreached=("backbone.b",))), "warning"),
        (check_gradients(learned([1.0], unreached=("head.a",))), "failed"),
        (check_memory(ProbeSteps([ProbeStep(2, GIB, {}), ProbeStep(4, 2 * GIB, {})]), 8, 6 * GIB, False), "ok"),
        (
            check_memory(ProbeSteps([ProbeStep(2, GIB, {}), ProbeStep(4, 2 * GIB, {})]), 8, 4 * GIB + 1, False),
            "warning",
        ),
        (check_memory(ProbeSteps([ProbeStep(2, GIB, {}), ProbeStep(4, 2 * GIB, {})]), 8, 3 * GIB, False), "failed"),
        (check_memory(ProbeSteps([ProbeStep(2, GIB, {})], too_large=4), 8, 60 * GIB, True), "failed"),
        (check_speed({"train": 1.0}, 0.9, 8, 1, PretrainOptions(workers=2)), "ok"),
        (check_speed({"train": 1.0}, 2.0, 8, 1, PretrainOptions(workers=2)), "warning"),
        (check_speed({"train": 1.0}, 0.9, 8, 1, PretrainOptions(workers=0)), "warning"),
        (check_disk(GIB, 3 * GIB, "/"), "ok"),
        (check_disk(2 * GIB, 3 * GIB, "/"), "warning"),
        (check_disk(4 * GIB, 3 * GIB, "/"), "failed"),
        (check_finite(ProbeSteps([ProbeStep(2, GIB, {}), ProbeStep(4, GIB, {}, finite=False)])), "failed"),
    ],
)
def test_verdicts(check: Check, verdict: str) -> None:
    assert check.verdict == verdict
    assert bool(check.remedy) == (verdict != "ok")
