"""A learning rate that falls from layer to layer, by timm's rule of what a layer is."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import nn

from hardviews.cli import main
from hardviews.errors import InputError
from hardviews.methods.byol import BYOL
from hardviews.methods.simsiam import SimSiam
from hardviews.training.optimizers import Rates, create_optimizer, layer_scales, parameter_groups
from hardviews.training.output.checkpoint import load
from tests.methods.tiny import TinyBackbone

NARROW: dict[str, Any] = {"channels": [4, 4, 8, 8], "layers": [1, 1, 2, 1]}
SMALL_VIT: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32}


@pytest.mark.parametrize(("name", "keywords"), [("resnet18", NARROW), ("vit_tiny_patch16_224", SMALL_VIT)])
def test_rates_are_those_of_timms_own_groups(name: str, keywords: dict[str, Any]) -> None:
    """Heads learn at the whole rate, the predictor at its constant one, and the teacher not at all."""
    backbone = timm.create_model(name, num_classes=0, **keywords)
    method = BYOL(backbone, BYOL.default_plan(32))
    theirs = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(backbone, weight_decay=0.1, layer_decay=0.5)
        for parameter in group["params"]
    }
    assert len({scale for scale, _ in theirs.values()}) > 3
    groups = parameter_groups(method, 0.1, False, ("predictor",), layer_scales(backbone, 0.5))
    optimizer = create_optimizer("adamw", groups, 0.0)
    Rates(0.4, 0.0, steps=100, warmup=10).set(optimizer, 5)
    ours = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert ours.keys() == {id(parameter) for parameter in trained.values()}
    for name, parameter in trained.items():
        peak = 0.4 if name.startswith("predictor.") else 0.2  # half-way through the warm-up
        scale, decay = theirs.get(id(parameter), (1.0, 0.1 if parameter.ndim > 1 else 0.0))
        assert ours[id(parameter)] == pytest.approx((peak * scale, decay)), name


def test_without_it_groups_are_as_before() -> None:
    method = SimSiam(timm.create_model("resnet18", num_classes=0, **NARROW), SimSiam.default_plan(32))
    assert layer_scales(method.backbone, 1.0) is None
    groups = parameter_groups(method, 0.1, True, method.constant_rate, layer_scales(method.backbone, 1.0))
    assert [set(group) for group in groups] == 2 * [{"params", "weight_decay", "constant", "decayed"}]


def test_a_backbone_that_names_no_layers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="layer-decay: TinyBackbone does not say what its layers are"):
        layer_scales(TinyBackbone(), 0.5)
    for decay in ("0", "1.5"):
        assert main(["pretrain", "--data", "shapes:8", "--layer-decay", decay, "--out", str(tmp_path / "run")]) == 2
        assert "must be above 0 and at most 1" in capsys.readouterr().err


def test_a_run_from_a_file_resumes_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the weights of a file, by the recipe; stopped after its first epoch, and never stopped."""
    weights, line = tmp_path / "weights.pth", "--recipe small_rgb_tuned --data shapes:24 --backbone.layers 1,1,1,1 "
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet18", num_classes=0, channels=[4, 4, 8, 8], layers=[1, 1, 1, 1])
    torch.save(model.state_dict(), weights)
    line += (
        f"--backbone.channels 4,4,8,8 --init {weights} --image-size 32 --epochs 2 --workers 0 --telemetry 0 "
        "--tensorboard false --accelerator cpu --keep-epochs 1 --precision 32-true --knn-epochs 0"
    )
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main(["pretrain", *line.split(), "--out", str(whole)]) == 0
    assert "init: " in capsys.readouterr().err
    shutil.copytree(whole, resumed)
    first = min((resumed / "checkpoints").glob("epoch-*.pt"))
    assert load(first)["step"] == 3
    first.replace(resumed / "checkpoints" / "last.pt")
    for file in (resumed / "checkpoints").iterdir():
        if file.name != "last.pt":
            file.unlink()
    weights.unlink()  # a run that resumes needs it no more
    assert main(["pretrain", *line.split(), "--out", str(resumed)]) == 0
    states = [load(run / "checkpoints" / "last.pt") for run in (whole, resumed)]
    assert states[0]["step"] == 6
    for name, value in states[0]["method"].items():
        assert torch.equal(value, states[1]["method"][name]), name
    assert main(["pretrain", *line.split(), "--out", str(resumed), "--layer-decay", "0.5"]) == 2
    assert "--layer-decay is 0.65 there and 0.5 here" in capsys.readouterr().err
