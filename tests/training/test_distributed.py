"""Several processes with a part of the images each do what one does with all of them."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import distributed_steps

REPOSITORY = Path(__file__).parents[2]
METHODS = ["simsiam", "simclr", "byol", "vicreg", "lejepa", "mocov3", "swav", "dino", "ibot", "dinov2"]
POLICIES = ["simsiam unexpected", "ibot unexpected", "simsiam rescue(3)", "byol learnable"]  # that exchange something
WAYS = ["simclr once", "dino once", "dino early", "simclr learnable(0.9)", "ibot growing"]  # of scoring, and of views
OTHERS = [*POLICIES, *WAYS]
LIMIT = 240  # seconds after which processes are taken to hang


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """What one process does."""
    fabric = distributed_steps.create_fabric()
    return {name: distributed_steps.ten_steps(fabric, name) for name in [*METHODS, *OTHERS]}


def shared(out: Path, names: list[str], processes: int, nodes: int = 1) -> dict[str, dict[str, Any]]:
    """What as many processes of each node do, whose agents are started by hand."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    agents = []
    for node in range(nodes):
        torchrun = f"-m torch.distributed.run --nnodes {nodes} --node-rank {node} --nproc-per-node {processes}"
        command = [sys.executable, *torchrun.split(), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        command += ["-m", "tests.training.distributed_steps", str(out), *names]
        agents.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [agent.communicate(timeout=LIMIT)[0].decode() for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * nodes, said
    loaded: dict[str, dict[str, Any]] = torch.load(out, weights_only=True)
    return loaded


def assert_the_same(many: dict[str, Any], one: dict[str, Any], costs: float = 1e-5) -> None:
    assert torch.equal(many["chosen"], one["chosen"])
    # Of figures up to 4, in float32.
    torch.testing.assert_close(many["losses"], one["losses"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(many["values"], one["values"], atol=costs, rtol=1e-5)  # which are logged
    torch.testing.assert_close(many["gradients"], one["gradients"], atol=1e-5, rtol=0)
    torch.testing.assert_close(many["state"], one["state"], atol=1e-5, rtol=0)  # with teacher and centres
    for parameter in many["everywhere"]:  # and all processes hold the same
        assert all(torch.equal(parameter[0], other) for other in parameter)
    assert one["losses"][-1] != one["losses"][0]


@pytest.mark.parametrize(
    ("names", "processes", "nodes"),
    [
        pytest.param(METHODS, 2, 1, id="two"),
        pytest.param(OTHERS, 2, 1, id="two, what else exchanges or changes the step"),
        pytest.param(["simsiam"], 1, 2, id="two machines", marks=pytest.mark.endure),
        pytest.param(
            METHODS, 4, 1, id="four, every method",
            marks=pytest.mark.endure,
        ),
    ],
)  # fmt: skip
def test_processes_equal_one_with_the_whole_batch(
    names: list[str], processes: int, nodes: int, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    many = shared(tmp_path / "many.pt", names, processes, nodes)
    assert list(many) == names
    for name in names:
        assert many[name]["world"] == processes * nodes
        # An early exit's regression multiplies what its moments differ by in rounding.
        assert_the_same(many[name], alone[name], costs=1e-3 if name.endswith("early") else 1e-5)


def test_the_command_line_starts_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = (
        "pretrain --backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --image-size 32 "
        "--batch-size 16 --workers 0 --tensorboard false --epochs 1 --data shapes:64 --devices 2 --accelerator cpu "
        f"--knn-epochs 1 --out {run}"
    )
    command = [sys.executable, "-m", "hardviews.cli", *line.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the run is in") == 1
    steps = (run / "metrics.csv").read_text().splitlines()
    assert len(steps) == 1 + 64 // 16  # of the global batch, each logged once
    files = sorted((run / "telemetry").glob("*.npz"))
    assert [file.name for file in files] == ["epoch-0000-1.npz", "epoch-0000.npz"]
    images = np.concatenate([np.load(file)["image"] for file in files])
    assert sorted(images) == list(range(64))
    assert len(list((run / "telemetry" / "gallery").iterdir())) == 16  # by whom they came by
