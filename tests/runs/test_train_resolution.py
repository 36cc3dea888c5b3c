"""Runs that train on smaller views first: how they go on, what they say, what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from hardviews.analysis.comparison import describe_scored, describe_size
from hardviews.cli import main
from tests.runs.cut_off import cut_off_after
from tests.runs.test_pretrain import LINES, SIMSIAM, TINY, VIT, assert_equal, pretrain, rows, state

DATA = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 0 --backbone.stem cifar"
FIXED = f"{VIT} --backbone.dynamic_img_size false --plan.local_size 32"
SMALL = "--train-resolution 0.5 --full-resolution-from 0.6"  # of 8 steps 5 are small


def test_off_is_off(tmp_path: Path) -> None:
    plain, off = tmp_path / "plain", tmp_path / "off"
    assert pretrain(f"{DATA} --out {plain}") == 0
    assert pretrain(f"{DATA} --train-resolution 1 --full-resolution-from 0.3 --out {off}") == 0
    assert_equal(state(plain), state(off))
    assert rows(plain) == rows(off)


@pytest.mark.parametrize("cut_after", [4, 5, 6])  # before, at and after the change
def test_a_run_that_is_cut_off_beside_the_change_goes_on_bit_for_bit(
    cut_after: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"{DATA} {SMALL} --checkpoint-steps 1 --backbone.drop_path_rate 0.3 --telemetry 0"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert pretrain(f"{line} --out {whole}") == 0
    said = capsys.readouterr().out
    assert "at 32 px (50% of that until epoch 1.2), batch" in said
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert describe_size(config) == "32 px, in the first 60% of the steps 50% of that"
    assert describe_scored(config) == "at the size of training"
    assert said.count("step 5: views have their full size from here on") == 1
    with cut_off_after(cut_after):
        pretrain(f"{line} --out {cut}")
    capsys.readouterr()
    assert pretrain(f"{line} --out {cut}") == 0
    assert ("views have their full size" in capsys.readouterr().out) == (cut_after < 6)
    assert_equal(state(whole), state(cut))
    assert rows(whole) == rows(cut)


@pytest.mark.parametrize("method", sorted(LINES))
def test_every_method(method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = LINES[method].replace("--epochs 1", "--epochs 2").replace("--image-size 32", "--image-size 64")
    line = line.replace("--plan.local-size 24", "--plan.local-size 48")
    assert main(["pretrain", *line.split(), *SMALL.split(), "--scoring", "fast", "--out", str(run)]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["score_resolution"] == 1.0  # of views of 32 px
    assert json.loads((run / "summary.json").read_text())["steps"] == 4
    assert all(torch.isfinite(value).all() for value in state(run)["method"].values())


def test_extending_counts_all_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, both = tmp_path / "short", tmp_path / "both"
    assert pretrain(f"{DATA} {SMALL} --out {short}") == 0
    capsys.readouterr()
    assert main(["pretrain", "--extend", str(short), "--epochs", "4", "--out", str(both)]) == 0
    said = capsys.readouterr().out
    assert "at 32 px (50% of that until epoch 2.4), batch" in said
    assert "step 10: views have their full size from here on" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{DATA} --train-resolution 0", "train-resolution: 0 must be above 0 and at most 1"),
        (f"{DATA} --train-resolution 1.5", "train-resolution: 1.5 must be"),
        (f"{DATA} --full-resolution-from 0", "full-resolution-from: 0 must be above 0"),
        (f"{FIXED} --train-resolution 0.5", "train-resolution: of the views of kind 'global A': backbone 'vit_tiny"),
        (f"{DATA} --backbone.stem imagenet --precision bf16-mixed --train-resolution 0.5", "views of 16 px shrink to"),
    ],
)
def test_bad_input_is_one_line(line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [] if "--method dino" in line else TINY.split()
    assert main(["pretrain", *tiny, *line.split(), "--accelerator", "cpu", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_sizes_that_are_rounded_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{VIT} --plan.local_size 24 {SMALL} --knn-epochs 0 --out {tmp_path / 'run'}"
    assert main(["pretrain", *line.split()]) == 0
    assert "views of 12 px are rendered at 16 px: whole patches of 8" in capsys.readouterr().err
