"""Runs on images that are not 8-bit RGB, from the first look at the data to the report."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hardviews
from hardviews.cli import main
from hardviews.models.load import load_model
from hardviews.telemetry import reading
from hardviews.views.pixels import Pixels
from tests.api.small import OPTIONS
from tests.runs.cut_off import cut_off_after
from tests.runs.test_pretrain import SIMSIAM, assert_equal, pretrain, rows, state

bench: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "channels.py")))
TONES = "--plan.gain 0.3 --plan.offset 0.1 --plan.gamma 0.2 --plan.drop-p 0.1"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of 12-bit pictures in 16-bit grey PNG files, of two classes."""
    random = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "scans" / label).mkdir(parents=True)
        for index in range(20):
            coarse = random.uniform(0, 4095, (5, 5)).astype(np.float32)
            smooth = np.asarray(Image.fromarray(coarse).resize((44, 40), Image.Resampling.BILINEAR))
            Image.fromarray(smooth.astype(np.uint16)).save(tmp_path / "scans" / label / f"{index}.png")
    return tmp_path / "scans"


def test_twelve_bits_of_grey_from_the_look_to_the_report(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--data {scans} {SIMSIAM} {TONES} --epochs 2 --checkpoint-steps 3 --workers 1"
    assert pretrain(f"{line} --out {tmp_path / 'whole'}") == 0
    said = capsys.readouterr().err
    assert "pixels: 1 channel of uint16 (40 of 40 images looked at)\npixels: values " in said
    assert "views: saturation, hue and grey are left out, which only RGB has" in said
    config = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    form = Pixels.from_config(config)
    every = np.stack([np.asarray(Image.open(file)) for file in sorted(scans.rglob("*.png"))])
    assert form.low == pytest.approx((np.percentile(every, 0.1),), rel=1e-4)
    assert form.high == pytest.approx((np.percentile(every, 99.9),), rel=1e-4)
    ranged = (every.clip(form.low, form.high) - form.low) / (form.high[0] - form.low[0])
    assert (config["mean"], config["std"]) == (
        pytest.approx([ranged.mean()], abs=2e-3), pytest.approx([ranged.std()], abs=2e-3)
    )  # fmt: skip

    with cut_off_after(3):
        pretrain(f"{line} --out {tmp_path / 'cut'}")
    capsys.readouterr()
    assert pretrain(f"{line} --out {tmp_path / 'cut'}") == 0
    assert "pixels: " not in capsys.readouterr().err  # nothing is looked at again
    assert_equal(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert pretrain(f"{line} --out {tmp_path / 'cut'} --value-range 0,4095") == 2
    assert "--value-range is not given there and 0.0,4095.0 here" in capsys.readouterr().err

    run = str(tmp_path / "whole")
    assert main(["evaluate", run, "--data", str(scans), "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["knn_top1"] <= 1
    assert main(["embed", run, "--data", str(scans), "--out", str(tmp_path / "e.parquet")]) == 0
    assert main(["report", run, "--out", str(tmp_path / "page.html")]) == 0
    assert f"Pictures show channel 1 of 1, values {form.low[0]:g} to" in (tmp_path / "page.html").read_text()
    telemetry = reading.load(tmp_path / "whole")
    assert telemetry["tone"].shape == (64, 4, 1, 4)
    assert telemetry.shown == (0, 0, 0)


def test_the_doctor_finds_twelve_bits_in_sixteen(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def diagnosed(*more: str) -> dict[str, dict[str, Any]]:
        capsys.readouterr()
        line = f"--data {scans} {SIMSIAM} --epochs 2 --out {tmp_path / 'run'} --doctor --json"
        pretrain(line, *more)
        return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}

    stored = diagnosed()
    assert (stored["content"]["verdict"], stored["values"]["verdict"]) == ("ok", "ok")
    assert stored["learning"]["verdict"] == "ok"
    with Image.open(tmp_path / "run-views.png") as sheet:
        assert np.asarray(sheet)[30:170, 12:170].std() > 30  # 12 bits of 16, without the range, would be black
    rgb = diagnosed("--channels", "rgb")
    assert "they use" in rgb["content"]["says"]
    assert "8-bit RGB keeps 16 levels of them" in rgb["values"]["says"]


def test_four_bands_of_a_python_object(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = [(random.uniform(0, 3000, (4, 36, 40)).astype(np.float32), index % 2) for index in range(48)]
    options = {**OPTIONS, "knn_epochs": 1, "epochs": 1, "workers": 0, "show_channels": (4, 3, 2)}
    run = hardviews.pretrain(data=data, value_range=(0, 3000), mean="auto", out=tmp_path / "run", **options)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert Pixels.from_config(config) == Pixels(4, "float32", (0,), (3000,), False)
    assert config["mean"] == pytest.approx([0.5] * 4, abs=0.01)
    assert run.summary["steps"] == 3
    telemetry = reading.load(tmp_path / "run")
    assert telemetry.shown == (3, 2, 1)
    with Image.open(telemetry.gallery[next(iter(telemetry.gallery))]) as thumbnail:
        assert abs(np.asarray(thumbnail).mean() - 127) < 10
    model = load_model(str(tmp_path / "run"))
    assert model.backbone.eval()(torch.zeros(1, 4, 32, 32)).shape == (1, 16)


def test_bands_beyond_rgb_are_learned_from() -> None:
    every, visible = bench.bands(seed=0)
    assert every >= visible + 15


def test_low_bits_are_learned_from() -> None:
    stored, eight = bench.bits(seed=0)
    assert stored >= eight + 15
