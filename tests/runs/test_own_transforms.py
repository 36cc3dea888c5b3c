"""Runs on augmentations of one's own: they choose, resume bit for bit, and are refused in one line."""

from pathlib import Path

import pytest

from hardviews.cli import main
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.runs.pretrain import pretrain as pretrain_in_python
from hardviews.telemetry import reading
from tests.runs import own_transforms
from tests.runs.cut_off import cut_off_after
from tests.runs.test_pretrain import SIMSIAM, VIT, assert_equal, pretrain, rows, state

PATH = "tests.runs.own_transforms"
LINE = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 0 --checkpoint-steps 3"


@pytest.mark.parametrize(
    "transform", ["by_all_generators", "whole --plan.transform-input image --score-resolution 0.75"]
)
def test_it_chooses_and_resumes_bit_for_bit(transform: str, tmp_path: Path) -> None:
    line = f"{LINE} --plan.transform {PATH}:{transform}"
    assert pretrain(f"{line} --out {tmp_path / 'whole'}") == 0
    with cut_off_after(3):
        pretrain(f"{line} --out {tmp_path / 'cut'}")
    assert pretrain(f"{line} --out {tmp_path / 'cut'}") == 0
    assert_equal(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert all(float(row["cost_kept"]) > float(row["cost_mean"]) for row in rows(tmp_path / "whole"))
    assert f"transform: {PATH}:{transform.split()[0]}" in (tmp_path / "cut" / "config.yaml").read_text()
    assert len(reading.load(tmp_path / "cut")) == 128
    assert main(["report", str(tmp_path / "cut"), "--out", str(tmp_path / "page.html")]) == 0


def test_one_for_every_kind_of_view(tmp_path: Path) -> None:
    names = ",".join(f"{PATH}:{name}" for name in ("colours", "noise", "colours"))
    assert main(["pretrain", *VIT.split(), "--plan.transform", f"[{names}]", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "config.yaml").read_text().count(f"- {PATH}:") == 3


def test_an_object_of_python_is_named_by_its_class(tmp_path: Path) -> None:
    options = PretrainOptions(
        data="shapes:32", method={"name": "simsiam", "dim": 16, "predictor_dim": 8}, image_size=32, batch_size=16,
        backbone=BackboneOptions(keywords={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}), workers=0, epochs=1,
        plan={"transform": own_transforms.colours}, knn_epochs=0, tensorboard=False, out=str(tmp_path / "run"),
    )  # fmt: skip
    assert pretrain_in_python(options)["steps"] == 2
    assert "transform: object:torchvision.transforms.v2" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--plan.transform nowhere:colours", "plan.transform: nowhere:colours: ModuleNotFoundError: No module named"),
        (f"--plan.transform {PATH}:nothing", "AttributeError: module 'tests.runs.own_transforms' has no attribute"),
        ("--plan.transform torchvision.transforms.v2:RandAugment", "RandAugment is no function or object to call"),
        (f"--plan.transform {PATH}", f"{PATH} is no function or object to call; give package.module:name of one"),
        ("--plan.transform object:a.b", "was given as an object in Python: give it again, or a path to it"),
        (f"--plan.transform {PATH}:twice_as_large", "returned float32 [3, 64, 64]; it must return float [3, 32, 32]"),
        (f"--plan.transform [{PATH}:noise,{PATH}:noise]", "2 given, but this method has 1 kind of view; give one, or"),
        ("--plan.transform-input image", "plan.transform-input: give --plan.transform too"),
        (
            f"--plan.transform {PATH}:whole --plan.transform-input image --policy lowest_iou",
            "policy: lowest_iou compares crops, and with --plan.transform-input image there are none",
        ),
    ],
)
def test_what_can_not_be_used_is_one_line(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(f"{LINE} {line} --out {tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
