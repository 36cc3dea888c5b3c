"""Backbones of images of any channels: what their input layer becomes, against timm's rule written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.networks.backbones import build_backbone, create_backbone, strided_over_one_pixel
from hardviews.networks.exports import timm_config
from hardviews.networks.weights import load_weights

NARROW: dict[str, Any] = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def by_hand(weight: Tensor, channels: int) -> Tensor:
    """Of one channel the sum over RGB; of more, RGB again and again, scaled so that the sum stays."""
    if channels == 1:
        return weight[:, 0:1] + weight[:, 1:2] + weight[:, 2:3]
    return torch.stack([weight[:, c % 3] * (3 / channels) for c in range(channels)], 1)


class Own(nn.Module):
    """A network of one's own for four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3))  # type: ignore[no-any-return]


def own() -> nn.Module:
    return Own()


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize(
    ("name", "stem", "first", "keywords"),
    [
        ("resnet18", "cifar", "conv1", NARROW),
        ("resnet18", "imagenet", "conv1", NARROW),
        ("resnet18", "cifar", "conv1", {**NARROW, "stem_type": "deep", "stem_width": 8}),
        ("vit_tiny_patch16_224", "auto", "patch_embed.proj", VIT),
    ],
)
def test_timms_take_them(name: str, stem: Any, first: str, keywords: dict[str, Any], channels: int) -> None:
    built = build_backbone(name, 32, stem=stem, image_channels=channels, **keywords)
    layer = built.backbone.get_submodule(first)
    assert layer.in_channels == channels
    with torch.no_grad():
        assert built.backbone(torch.zeros(2, channels, 32, 32)).shape[0] == 2
    assert built.arguments["in_chans"] == channels
    if not built.cifar_stem:  # what timm makes of the arguments takes the weights
        again = timm.create_model(built.architecture, num_classes=0, **built.arguments)
        again.load_state_dict(built.backbone.state_dict())
    assert "in_chans" not in build_backbone(name, 32, stem=stem, **keywords).arguments


def exported(folder: Path, channels: int = 3) -> str:
    """A folder as timm reads it, named."""
    torch.manual_seed(1)
    built = build_backbone("resnet18", 64, stem="imagenet", image_channels=channels, **NARROW)
    images = {"input_size": [channels, 64, 64], "mean": [0.5] * channels, "std": [0.5] * channels}
    (folder / "config.json").write_text(json.dumps(timm_config(built, images, 16)))
    save_file(built.backbone.state_dict(), folder / "model.safetensors")
    return f"local-dir:{folder}"


@pytest.mark.parametrize("channels", [1, 4])
def test_pretrained_weights_are_inflated(channels: int, tmp_path: Path) -> None:
    name = exported(tmp_path)
    rgb, found = (create_backbone(name, 64, pretrained=True, image_channels=count) for count in (3, channels))
    torch.testing.assert_close(found.conv1.weight, by_hand(rgb.conv1.weight, channels))  # type: ignore[arg-type,union-attr]
    same = {key: value for key, value in rgb.state_dict().items() if key != "conv1.weight"}
    assert all(torch.equal(found.state_dict()[key], value) for key, value in same.items())


def test_pretrained_weights_of_four_channels_stay_as_they_are(tmp_path: Path) -> None:
    """Also with timms that take every first layer for RGB's: it is not named."""
    name = exported(tmp_path, channels=4)
    found = create_backbone(name, 64, pretrained=True, image_channels=4)
    plain = timm.create_model(name, pretrained=True)  # in_chans=4 comes from the folder
    assert torch.equal(found.conv1.weight, plain.conv1.weight)  # type: ignore[arg-type,union-attr]
    assert torch.equal(found.conv1.weight, load_file(tmp_path / "model.safetensors")["conv1.weight"])  # type: ignore[arg-type,union-attr]
    for channels in (3, 13):
        with pytest.raises(InputError, match=f"is trained on 4 channels, and images have {channels}; only weights for"):
            create_backbone(name, 64, pretrained=True, image_channels=channels)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize(
    ("name", "key", "keywords"),
    [("resnet18", "conv1.weight", NARROW), ("vit_tiny_patch16_224", "patch_embed.proj.weight", VIT)],
)
def test_files_of_rgb_become_those_of_other_channels(
    name: str, key: str, keywords: dict[str, Any], channels: int
) -> None:
    torch.manual_seed(0)
    stem: Any = "imagenet" if name == "resnet18" else "auto"
    given = create_backbone(name, 32, stem=stem, **keywords).state_dict()
    backbone = create_backbone(name, 32, stem=stem, image_channels=channels, **keywords)
    match = load_weights(backbone, {f"module.{other}": value for other, value in given.items()}, "init: x")
    assert not match.missing
    assert not match.left
    amount = "1 channel" if channels == 1 else f"{channels} channels"
    assert f"; {key} made for {amount} of RGB's" in str(match)
    loaded = backbone.state_dict()
    torch.testing.assert_close(loaded[key], by_hand(given[key], channels))
    assert all(torch.equal(loaded[other], value) for other, value in given.items() if other != key)
    if channels == 1:  # a grey picture looks as it did in RGB
        rgb, grey = create_backbone(name, 32, stem=stem, **keywords), torch.rand(2, 1, 32, 32)
        rgb.load_state_dict(given)
        with torch.no_grad():
            torch.testing.assert_close(backbone.eval()(grey), rgb.eval()(grey.expand(2, 3, 32, 32)))


@pytest.mark.parametrize(("given", "wanted"), [(4, 13), (4, 3), (1, 3)])
def test_files_of_other_channels_are_refused(given: int, wanted: int) -> None:
    state, backbone = (
        create_backbone("resnet18", 32, image_channels=count, **NARROW) for count in (given, wanted)
    )  # fmt: skip
    with pytest.raises(InputError, match=rf"init: x: its conv1.weight takes {given} channels?, and images have"):
        load_weights(backbone, state.state_dict(), "init: x")


def test_a_file_with_another_stem_is_still_said_to_miss_it() -> None:
    given = create_backbone("resnet18", 32, stem="imagenet", **NARROW)
    backbone = create_backbone("resnet18", 32, stem="cifar", image_channels=4, **NARROW)
    match = load_weights(backbone, given.state_dict(), "init: x")
    assert match.missing == match.left == ["conv1.weight"]
    assert not match.adapted


def test_transformers_take_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    built = build_backbone(f"hf:{tmp_path}", 32, pretrained=True, image_channels=4)
    key = "embeddings.patch_embeddings.projection.weight"
    found = built.backbone.model.state_dict()  # type: ignore[union-attr]
    torch.testing.assert_close(found[key], by_hand(model.state_dict()[key], 4))
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items() if name != key)
    built.backbone.model.save_pretrained(tmp_path / "four")  # type: ignore[operator,union-attr]
    again = create_backbone(f"hf:{tmp_path / 'four'}", 32, pretrained=True, image_channels=4)
    assert torch.equal(again.model.state_dict()[key], found[key])  # type: ignore[union-attr]
    with pytest.raises(InputError, match="takes 4 channels, and images have 3"):
        create_backbone(f"hf:{tmp_path / 'four'}", 32, pretrained=True)


@pytest.mark.parametrize(
    ("name", "keywords", "says"),
    [
        ("torchvision:resnet18", {}, "'torchvision:resnet18' takes RGB only; timm's models take 5 channels"),
        (f"{__name__}:own", {}, "does not take images of 32 pixels and 5 channels: "),
        (Own(), {}, "does not take images of 32 pixels and 5 channels: "),
        ("resnet18", {"in_chans": 4}, "backbone.in_chans: 4, but images have 5 channels; leave it out"),
    ],
)
def test_what_does_not_take_them_is_named(name: Any, keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_backbone(name, 32, image_channels=5, **keywords)


def test_ones_own_takes_what_it_takes() -> None:
    for name in (f"{__name__}:own", Own()):
        assert build_backbone(name, 32, image_channels=4).backbone(torch.zeros(2, 4, 32, 32)).shape == (2, 6)


def test_strides_over_one_pixel_are_found_whatever_the_channels() -> None:
    backbone = create_backbone("resnet18", 64, image_channels=4, **NARROW)
    assert strided_over_one_pixel(backbone, 64, 4) is None
    assert strided_over_one_pixel(backbone, 4, 4) == "layer2.0.conv1"
