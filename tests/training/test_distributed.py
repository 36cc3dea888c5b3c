"""Two processes with half the images each do what one does with all of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
SCRIPT = ["-m", "tests.training.distributed_steps"]


def steps(name: str, processes: int, out: Path) -> dict[str, Any]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *torchrun, *SCRIPT, name, str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = torch.load(out, weights_only=True)
    return loaded


@pytest.mark.parametrize("name", ["simsiam", "simclr", "byol", "dino", "ibot"])
def test_two_processes_equal_one_with_the_doubled_batch(name: str, tmp_path: Path) -> None:
    one, two = (steps(name, processes, tmp_path / f"{processes}.pt") for processes in (1, 2))
    assert (one["world"], two["world"]) == (1, 2)
    torch.testing.assert_close(two["losses"], one["losses"], atol=1e-5, rtol=0)
    torch.testing.assert_close(two["kept"], one["kept"], atol=1e-6, rtol=0)  # the same choices
    for ours, theirs in zip(two["gradients"], one["gradients"], strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(two["state"], one["state"], atol=1e-5, rtol=0)  # with teacher and centres
    for parameter in two["everywhere"]:  # and both processes hold the same
        assert torch.equal(parameter[0], parameter[1])
    assert one["losses"][-1] != one["losses"][0]


def test_the_command_line_starts_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = (
        "pretrain --backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --image-size 32 "
        "--batch-size 16 --workers 0 --tensorboard false --epochs 1 --data shapes:64 --devices 2 --accelerator cpu "
        f"--knn-epochs 1 --out {run}"
    )
    command = [sys.executable, "-m", "hardviews.cli", *line.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the run lies in") == 1
    steps = (run / "metrics.csv").read_text().splitlines()
    assert len(steps) == 1 + 64 // 16  # of the global batch, each logged once
    files = sorted((run / "telemetry").glob("*.npz"))
    assert [file.name for file in files] == ["epoch-0000-1.npz", "epoch-0000.npz"]
    images = np.concatenate([np.load(file)["image"] for file in files])
    assert sorted(images) == list(range(64))
    assert len(list((run / "telemetry" / "gallery").iterdir())) == 16  # by whom they came by

    refused = subprocess.run(
        [*command, "--epochs", "2"], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.count("hardviews: error") == 1
