"""The examples run as a reader would run them, from a folder of their own, and leave nothing there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "needs", "steps", "losses"),
    [
        ("plain_torch.py", "torch", 10, (-1, 1)),
        ("lightly_lightning.py", "lightly lightning", 4, (-1, 1)),
        ("lightning_callback.py", "lightning", 4, (0, 12)),
        ("stable_pretraining_simclr.py", "stable_pretraining", 4, (0, 12)),
        ("lightly_dino.py", "lightly", 4, (0, 12)),
    ],
)
def test_example_runs(script: str, needs: str, steps: int, losses: tuple[int, int], tmp_path: Path) -> None:
    for package in needs.split():
        if find_spec(package) is None:
            pytest.skip(f"{script} needs {package}, which is not installed")
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr  # nothing that the reader can't act on
    assert "deprecated" not in done.stderr
    found = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("step ")]
    assert len(found) == steps
    assert all(losses[0] <= loss <= losses[1] for loss in found)
    assert not list(tmp_path.iterdir())


def test_a_method_of_another_package_is_trained_by_its_dotted_path(tmp_path: Path) -> None:
    line = (
        "pretrain --method own_method.nnclr.NNCLR --method.hidden-dim 32 --plan.scale 0.3,1 --data shapes:32 "
        "--batch-size 16 --epochs 1 --backbone.channels 8,8,16,16 --workers 0 --tensorboard false --out run"
    )
    command = [sys.executable, "-m", "hardviews.cli", *line.split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ["PYTHONPATH"]])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "own_method.nnclr.NNCLR on shapes: 32 images, 4 views drawn, 2 kept (hardest)" in done.stdout
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_augmentations_of_ones_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])}
    line = (
        "pretrain --method simclr --method.hidden-dim 32 --data shapes:32 --batch-size 16 --epochs 1 --image-size 32 "
        "--backbone.channels 8,8,16,16 --workers 0 --tensorboard false --out run "
        "--plan.transform own_augmentation:view --plan.transform-input image"
    )
    for command in ([str(EXAMPLES / "own_augmentation.py")], ["-m", "hardviews.cli", *line.split()]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if len(command) == 1:
            assert done.stdout.splitlines() == ["4 candidates of [4, 3, 32, 32], the same pixels each time: True"] * 3
    assert "transform: own_augmentation:view" in (tmp_path / "run" / "config.yaml").read_text()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_a_data_set_of_ones_own_is_read_and_trained_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_dataset.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "Discs: 200 images of ['small', 'large']"
    assert done.stdout.count("batch of 8") == 3
    line = (
        "pretrain --data python:own_dataset:discs --batch-size 100 --epochs 1 --backbone.channels 8,8,16,16 "
        "--backbone resnet18 --backbone.layers 1,1,1,1 --workers 0 --tensorboard false --out run"
    )
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "hardviews.cli", *line.split()], env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "own_dataset:discs: 200 images" in done.stdout
    assert "knn_top1" in (tmp_path / "run" / "evaluation.csv").read_text()  # by the labels of its items
