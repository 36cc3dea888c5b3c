"""What is resolved before a run starts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from hardviews.commands.pretrain import parse
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.networks.backbones import create_backbone
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.setup import defaults, initial_weights
from hardviews.setup.defaults import resolve_defaults, run_folder_name
from hardviews.setup.step import scoring_of

NARROW = BackboneOptions("resnet18", keywords={"channels": [8, 8, 8, 8]})


def test_defaults_come_from_data_and_method() -> None:
    options, method = resolve_defaults(PretrainOptions(data="shapes", backbone=NARROW), Shapes(count=10))
    assert (options.image_size, options.decode_size, options.views) == (32, 64, [4])
    assert (options.optimizer, options.lr, options.weight_decay, options.warmup_epochs) == ("sgd", 0.05, 1e-4, 0.0)
    assert options.precision != "auto"
    assert method.plan.mean == (0.485, 0.456, 0.406)
    large, _ = resolve_defaults(PretrainOptions(data="shapes", backbone=NARROW), Shapes(count=10, size=200))
    assert large.image_size == 224


def test_fast_scoring_and_what_changes_it() -> None:
    shapes = Shapes(count=10)

    def scoring(**options: Any) -> Scoring:
        return scoring_of(resolve_defaults(PretrainOptions(data="shapes", **options), shapes)[0])

    vit = BackboneOptions("vit_tiny_patch16_224", keywords={"embed_dim": 12, "depth": 1, "num_heads": 2})
    assert scoring(image_size=64) == Scoring(resolution=0.75)
    assert scoring(image_size=64, backbone=vit) == Scoring(resolution=0.5)
    assert scoring(image_size=32) == scoring(image_size=64, scoring="exact") == EXACT
    assert scoring(image_size=64, scoring="exact", score_resolution=0.25) == Scoring(resolution=0.25)
    assert scoring(image_size=64, score_resolution=1.0, score_every=2) == Scoring(every=2)
    # It is a part of the size in training, of which the smallest counts.
    assert scoring(image_size=128, train_resolution=0.5) == Scoring(resolution=0.75)
    assert scoring(image_size=120, train_resolution=0.5) == EXACT


def test_backbones_of_fixed_size_are_scored_at_it(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"embed_dim": 16, "num_heads": 2, "depth": 1, "depth_token_only": 1, "patch_size": 16}
    options = PretrainOptions(data="shapes", image_size=64, backbone=BackboneOptions("cait_xxs24_224", keywords=small))
    assert resolve_defaults(options, Shapes(count=10))[0].score_resolution == 1.0
    assert "candidates are scored at full size" in capsys.readouterr().err
    with pytest.raises(InputError, match="score-resolution"):
        resolve_defaults(dataclasses.replace(options, score_resolution=0.5), Shapes(count=10))


def test_mean_and_std_follow_pretrained_weights_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_download(*_: object, **__: object) -> nn.Module:
        model: nn.Module = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0)
        return model

    monkeypatch.setattr(defaults, "create_backbone", without_download)
    options = PretrainOptions(data="shapes", backbone=BackboneOptions("vit_tiny_patch16_224", pretrained=True))
    resolved, method = resolve_defaults(options, Shapes(count=10))
    assert resolved.mean == resolved.std == method.plan.mean == (0.5, 0.5, 0.5)
    assert method.plan.multiple == 16
    given, _ = resolve_defaults(dataclasses.replace(options, mean=(0.1, 0.2, 0.3)), Shapes(count=10))
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)
        _, method = resolve_defaults(PretrainOptions(data="shapes", backbone=NARROW, seed=seed), Shapes(count=10))
        return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_change_of_size_that_cannot_come_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    resolve_defaults(PretrainOptions(data="shapes", backbone=NARROW), Shapes(count=10))
    assert not capsys.readouterr().err
    resolve_defaults(PretrainOptions(data="shapes", backbone=NARROW, full_resolution_from=0.5), Shapes(count=10))
    assert capsys.readouterr().err.startswith("full-resolution-from: without --train-resolution, all views")


def test_run_folders_are_named_after_what_is_run() -> None:
    options, _ = parse(["--data", "/a/b/my pictures!", "--method", "simclr"])
    assert run_folder_name(options, "20250101-000000").as_posix() == "runs/20250101-000000-simclr-my-pictures-"


def test_views_whose_gradients_torch_gets_wrong_are_refused() -> None:
    """A local view of 14 px is one pixel before the last strided layers of an ImageNet ResNet."""
    backbone = BackboneOptions("resnet18", stem="imagenet", keywords={"channels": [8, 8, 8, 8]})
    options = PretrainOptions(
        data="shapes", method={"name": "dino", "prototypes": 16}, backbone=backbone, precision="bf16-mixed",
        accelerator="cpu",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"views of 14 px shrink to one pixel before the backbone's layer4\.0\.conv1"):
        resolve_defaults(options, Shapes(count=10))
    resolve_defaults(dataclasses.replace(options, precision="32-true"), Shapes(count=10))
    resolve_defaults(dataclasses.replace(options, plan={"local_size": 24}), Shapes(count=10))


def test_init_by_a_timm_models_name_takes_its_weights_mean_and_std(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The download is left out: what timm would load is made here."""
    keywords = {"depth": 1, "patch_size": 16}

    def without_download(name: str, size: int, *, pretrained: bool = False, **others: Any) -> nn.Module:
        torch.manual_seed(7 if pretrained else 8)
        return create_backbone(name, size, **({"stem": "imagenet"} | others | keywords))

    for module in (defaults, initial_weights):
        monkeypatch.setattr(module, "create_backbone", without_download)
    options = PretrainOptions(
        data="shapes", init="vit_tiny_patch16_224", backbone=BackboneOptions("vit_tiny_patch16_224", keywords=keywords)
    )
    resolved, method = resolve_defaults(options, Shapes(count=10, size=64))
    assert resolved.mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(
        method.backbone.state_dict(), without_download("vit_tiny_patch16_224", 64, pretrained=True).state_dict()
    )
    assert "init: vit_tiny_patch16_224: 18 of the backbone's 18 tensors" in capsys.readouterr().err


def test_init_with_nothing_of_use_is_refused_whatever_the_backbone(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(4, 3, 3, 3)}, tmp_path / "conv.pth")
    options = PretrainOptions(
        data="shapes",
        init=str(tmp_path / "conv.pth"),
        backbone=BackboneOptions("vit_tiny_patch16_224", keywords={"depth": 1}),
    )
    with pytest.raises(InputError, match="nothing in it fits the backbone"):
        resolve_defaults(options, Shapes(count=10))
