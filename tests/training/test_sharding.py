"""Two processes that share out a network (FSDP2) do what two do that each hold it whole (DDP), and continue from each
other's checkpoints."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from hardviews.cli import main
from hardviews.errors import InputError
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.distributed.sharded_state import unsharded
from hardviews.training.distributed.sharding import UnshardedCopy, check_blocks
from hardviews.training.output import checkpoint
from hardviews.training.output.run_folder import RunFolder
from tests.methods.multi_crop import dino
from tests.runs.test_pretrain import assert_equal, rows

REPOSITORY = Path(__file__).parents[2]
# Clipped, decayed on a schedule, of two parts each, with a step that is skipped.
LINE = (
    "pretrain --method tests.training.spoilt.SpoiltDINO --method.prototypes 32 --method.hidden_dim 16 --plan.locals 2 "
    "--method.freeze_last_layer 0 --backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.embed_dim 24 "
    "--backbone.num_heads 2 --backbone.depth 2 --image-size 32 --batch-size 16 --grad-accumulation 2 --lr 0.01 "
    "--clip 0.3 --data shapes:64 --epochs 2 --checkpoint-steps 3 --keep-epochs 1 --knn-epochs 2 --workers 0 "
    "--tensorboard false "
    "--telemetry 0 --accelerator cpu --precision 32-true"
)


def trained(run: Path, processes: int, strategy: str) -> str:
    line = f"{LINE} --devices {processes} --strategy {strategy} --out {run}"
    command = [sys.executable, "-m", "hardviews.cli", *line.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ddp") / "run"
    trained(run, 2, "ddp")
    return run


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fsdp") / "run"
    trained(run, 2, "fsdp")
    return run


def state(run: Path, name: str = "last.pt") -> dict[str, Any]:
    """A checkpoint, its parts put together."""
    found = checkpoint.load(run / "checkpoints" / name)
    found["method"] = {key: unsharded(value) for key, value in found["method"].items()}
    found["optimizer"] = {
        name: {key: unsharded(value) for key, value in kept.items()} for name, kept in found["optimizer"].items()
    }
    return {key: value for key, value in found.items() if key != "parts"}


def assert_close(ours: Path, theirs: Path, name: str = "last.pt") -> None:
    ours_state, theirs_state = state(ours, name), state(theirs, name)
    for part in ("method", "optimizer"):
        torch.testing.assert_close(ours_state[part], theirs_state[part], atol=1e-5, rtol=0)
    assert [row["skipped"] for row in rows(ours)] == ["0"] * 5 + ["1"] + ["0"] * 2
    with (ours / "metrics.csv").open() as one, (theirs / "metrics.csv").open() as other:
        for mine, its in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            for column in ("loss", "cost_kept", "cost_mean", "iou_kept"):
                assert float(mine[column] or 0) == pytest.approx(float(its[column] or 0), abs=1e-5)


def test_it_equals_the_run_that_holds_all_in_every_process(ddp: Path, fsdp: Path) -> None:
    assert_close(fsdp, ddp)
    assert_close(fsdp, ddp, "epoch-0001.pt")
    ours, theirs = (RunFolder(run).evaluations() for run in (fsdp, ddp))
    assert ours.keys() >= {"knn_top1", "embedding_rank"}
    for name in ours:
        assert [value for _, value in ours[name]] == pytest.approx([value for _, value in theirs[name]], abs=1e-5)


def test_every_process_writes_its_part(fsdp: Path) -> None:
    parts = fsdp / "checkpoints" / "parts"
    assert sorted(file.name for file in parts.iterdir()) == [
        "epoch-0001-1-of-2.pt", "epoch-0002-1-of-2.pt", "step-00000006-1-of-2.pt",
    ]  # fmt: skip
    weights = checkpoint.load(fsdp / "checkpoints" / "last.pt")["method"]
    shared = {name: value for name, value in weights.items() if isinstance(value, list)}
    assert shared.keys() == {name for name in weights if ".blocks." in name}  # of student and teacher
    assert all(len(value) == 2 and value[0].shape == value[1].shape for value in shared.values())


@pytest.mark.endure
def test_its_export_is_that_of_the_other(ddp: Path, fsdp: Path, tmp_path: Path) -> None:
    for run in (ddp, fsdp):
        name = run.parent.name
        assert main(["export", str(run), "--format", "timm", "--out", str(tmp_path / name)]) == 0
    ours, theirs = (load_file(tmp_path / run.parent.name / "model.safetensors") for run in (fsdp, ddp))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.endure
@pytest.mark.fault("part of a sharded checkpoint cut short", "said by all, and the checkpoint before it is taken")
def test_it_goes_on_bit_for_bit_from_the_last_checkpoint_that_is_whole(fsdp: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fsdp, run)
    part = run / "checkpoints" / "parts" / "epoch-0002-1-of-2.pt"
    part.write_bytes(part.read_bytes()[:-500])
    said = trained(run, 2, "fsdp")
    assert f"{part}: can't be loaded as a checkpoint" in said
    assert "resuming at step 6 of 8" in said
    assert_equal(state(run), state(fsdp))
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(fsdp)]


@pytest.mark.parametrize(
    ("begun", "processes", "strategy"),
    [("fsdp", 1, "ddp"), pytest.param("ddp", 2, "fsdp", marks=pytest.mark.endure)],
)
def test_they_go_on_from_each_other(
    begun: str, processes: int, strategy: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, there = tmp_path / "run", request.getfixturevalue(begun)
    shutil.copytree(there, run)
    (run / "checkpoints" / "before.pt").replace(run / "checkpoints" / "last.pt")
    assert "resuming at step 6 of 8" in trained(run, processes, strategy)
    assert_close(run, there)


def test_a_backbone_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="fsdp finds no blocks to shard in TinyBackbone; give ddp"):
        check_blocks(dino())


class Shifted(nn.Linear):
    """With a buffer that checkpoints do not hold."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("shift", torch.arange(2.0), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + self.shift


def test_a_whole_copy_has_the_weights_of_now_and_takes_no_memory_before() -> None:
    network = Shifted()
    whole_copies = UnshardedCopy(network)
    assert all(parameter.is_meta for parameter in whole_copies._empty.parameters())
    with torch.no_grad():
        network.weight.add_(1)
    copy, images = whole_copies.of(network, Meeting(Fabric(accelerator="cpu", devices=1))), torch.randn(4, 3)
    assert torch.equal(copy(images), network(images))
    assert copy.weight is not network.weight
