"""Continued pretraining from a file with the layout of DINOv2's weights."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from hardviews.cli import main
from hardviews.training.output.checkpoint import load

NARROW: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 3}


def test_the_run_starts_from_the_file_and_stays_near_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's positions are of 518 pixels, the run's of 28."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("vit_small_patch14_dinov2", num_classes=0, **NARROW)
    published, weights, run = model.state_dict(), tmp_path / "weights.pth", tmp_path / "run"
    torch.save(published, weights)
    line = (
        f"--recipe dinov2_continued --data shapes:16 --init {weights} --backbone.embed_dim 24 --backbone.depth 3 "
        "--backbone.num_heads 3 --method.prototypes 16 --method.hidden-dim 16 --plan.locals 2 --plan.local-size 14 "
        "--image-size 28 --batch-size 4 --epochs 2 --warmup-epochs 0 --workers 0 --telemetry 0 --tensorboard false "
        f"--accelerator cpu --precision 32-true --knn-epochs 0 --out {run}"
    )
    assert main(["pretrain", *line.split()]) == 0
    said = capsys.readouterr().err
    assert f"init: {weights}: {len(published)} of the backbone's {len(published)} tensors" in said
    trained = load(run / "checkpoints" / "last.pt")["method"]
    moved = {}
    for name, value in published.items():
        if name != "pos_embed":
            assert torch.equal(trained[f"gram_teacher.backbone.{name}"], value), name
            moved[name] = (trained[f"backbone.{name}"] - value).norm() / value.norm()
    early, late = moved["blocks.0.attn.qkv.weight"], moved["blocks.2.attn.qkv.weight"]
    assert 0 < early < late < 0.01  # the rate falls from layer to layer
