"""Backbones by name, their CIFAR form, and what is said of wrong ones."""

from typing import Any

import pytest
import torch
from torch import nn

from hardviews.errors import InputError
from hardviews.networks.backbones import create_backbone, feature_dim, patch_size


@pytest.mark.parametrize(
    ("name", "size", "keywords"),
    [
        ("resnet18", 32, {"channels": [8, 16, 16, 32]}),
        ("resnet26d", 64, {"channels": [8, 16, 16, 32]}),
        ("vit_tiny_patch16_224", 48, {"depth": 2}),
        ("convnext_atto", 64, {}),
        ("efficientnet_b0", 64, {}),
        ("mobilenetv3_small_050", 64, {}),
        ("swin_tiny_patch4_window7_224", 56, {"depths": (1, 1)}),
    ],
)
def test_any_timm_model_yields_features(name: str, size: int, keywords: dict[str, Any]) -> None:
    backbone = create_backbone(name, size, **keywords)
    assert backbone.training
    features = backbone.eval()(torch.rand(2, 3, size, size))
    assert features.shape == (2, feature_dim(backbone))


def test_cifar_stem_keeps_the_resolution() -> None:
    small = create_backbone("resnet18", 32)
    assert isinstance(small.maxpool, nn.Identity)
    assert small.conv1(torch.rand(1, 3, 32, 32)).shape == (1, 64, 32, 32)  # type: ignore[operator]
    large = create_backbone("resnet18", 224)
    assert isinstance(large.maxpool, nn.MaxPool2d)
    assert isinstance(create_backbone("resnet18", 32, stem="imagenet").maxpool, nn.MaxPool2d)


def test_a_narrow_network_has_a_narrow_cifar_stem() -> None:
    narrow: dict[str, Any] = {"channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8}
    small = create_backbone("resnet18", 32, stem="cifar", **narrow)
    assert small.get_submodule("conv1")(torch.rand(1, 3, 32, 32)).shape == (1, 16, 32, 32)
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 128)
    # A deep stem was asked for on purpose, so small images do not replace it.
    assert isinstance(create_backbone("resnet18", 32, **narrow).get_submodule("conv1"), nn.Sequential)


def test_vit_takes_its_patch_and_other_sizes() -> None:
    vit = create_backbone("vit_tiny_patch16_224", 64, depth=1)
    assert patch_size(vit) == 16
    assert patch_size(create_backbone("resnet18", 32)) == 1
    assert vit(torch.rand(1, 3, 32, 32)).shape == (1, 192)
    odd = create_backbone("vit_tiny_patch16_224", 40, depth=1)  # made for 48, the nearest of whole patches
    assert odd.get_parameter("pos_embed").shape[1] == 1 + 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "resnet19"}, "did you mean resnet"),
        ({"name": "mine.net"}, "a function of your own is MODULE:NAME, mine:net"),
        ({"name": "resnet18.nothing"}, "did you mean resnet18"),
        ({"name": "resnet18", "chanels": 3}, "chanels"),
        ({"name": "vit_tiny_patch16_224", "stem": "cifar"}, "no CIFAR stem"),
        ({"name": "inception_v3", "image_size": 20}, "inception_v3. does not take images of 20 pixels"),
        ({"name": "resnet18", "global_pool": ""}, "not one feature vector"),
    ],
)
def test_wrong_ones_are_named_in_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        create_backbone(**({"image_size": 32} | arguments))
    assert "\n" not in str(caught.value)
