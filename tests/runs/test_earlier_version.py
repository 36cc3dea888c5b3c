"""What version 0.1.0 left behind still loads, resumes and is read: a run, its checkpoint, telemetry and settings."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hardviews.cli import main
from hardviews.commands.pretrain import parse
from hardviews.comparison.plan import PLAN, read_plan
from hardviews.models.load import load_model
from hardviews.options.old_names import RENAMED, with_new_names
from hardviews.telemetry import reading

FIXTURE = Path(__file__).parent.parent / "fixtures" / "run-0.1"
RUN = (
    "--data shapes:64 --method simsiam --method.dim 8 --method.predictor-dim 4 --backbone resnet18 --image-size 32 "
    "--backbone.channels 4,4,4,4 --backbone.layers 1,1,1,1 --batch-size 16 --epochs 2 --knn-epochs 1 --telemetry 16 "
    "--gallery 1 --workers 0 --tensorboard false --accelerator cpu --seed 3 --clip 1 --log-steps 1 "
    "--checkpoint-steps 2 --precision 32-true"
)
OLD = "--accumulate 2 --max-skipped=7 --clip-by all --decay_1d true"
NEW = "--grad-accumulation 2 --max-nonfinite-steps 7 --clip-mode all --decay-bias-and-norm true"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "run", ignore=shutil.ignore_patterns("whole.csv")))


def losses(file: Path) -> list[float]:
    with file.open(newline="", encoding="utf-8") as opened:
        return [float(row["loss"]) for row in csv.DictReader(opened)]


@pytest.mark.parametrize("names", [OLD, NEW])
def test_it_resumes_by_old_and_new_names_as_if_never_interrupted(
    names: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = with_new_names(yaml.safe_load((run / "config.yaml").read_text()))
    assert main(["pretrain", *RUN.split(), *names.split(), "--out", str(run)]) == 0
    said = capsys.readouterr().err
    assert said.count("the old name will go in the next version") == (4 if names == OLD else 0)
    assert losses(run / "metrics.csv") == pytest.approx(losses(FIXTURE / "whole.csv"), rel=1e-3, abs=1e-5)
    after = yaml.safe_load((run / "config.yaml").read_text())
    after["plan"] = {name: after["plan"][name] for name in before["plan"]}
    assert {name: after[name] for name in before} == before  # options that are new since stand beside these
    assert json.loads((run / "summary.json").read_text())["steps"] == 8


def test_another_value_under_a_new_name_is_another_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = NEW.replace("--grad-accumulation 2", "--grad-accumulation 1")
    assert main(["pretrain", *RUN.split(), *other.split(), "--out", str(run)]) == 2
    assert "--grad-accumulation is 2 there and 1 here" in capsys.readouterr().err


def test_its_settings_are_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = parse(["--config", str(FIXTURE / "config.yaml")])
    assert (options.grad_accumulation, options.max_nonfinite_steps) == (2, 7)
    assert (options.clip_mode, options.decay_bias_and_norm) == ("all", True)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(f"{old} is now {new}" in line for old, new in RENAMED.items())


def test_old_names_are_in_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help-all"])
    printed = capsys.readouterr().out
    for old, new in RENAMED.items():
        assert f"--{old.replace('_', '-')} " not in printed
        assert f"--{new.replace('_', '-')} " in printed


def test_its_backbone_and_telemetry_load(run: Path) -> None:
    model = load_model(str(run))
    assert (model.step, model.config["grad_accumulation"]) == (4, 2)
    assert torch.isfinite(model.backbone.eval()(torch.zeros(1, 3, 32, 32))).all()
    telemetry = reading.load(run)
    assert len(telemetry) == 16
    assert list(telemetry.gallery) == [59]
    assert np.isfinite(telemetry["cost"]).all()


def test_a_plan_of_a_comparison_is_read_under_new_names(tmp_path: Path) -> None:
    entry = {"seconds_per_epoch": 1.0, "settings": {"accumulate": 2, "epochs": 3}}
    (tmp_path / PLAN).write_text(json.dumps({"baseline": "random", "arms": {"random": entry}}))
    assert read_plan(tmp_path)["arms"]["random"]["settings"] == {"grad_accumulation": 2, "epochs": 3}
