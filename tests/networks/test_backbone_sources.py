"""Backbones of torchvision, transformers and one's own: their features are those of the libraries' own forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.ibot import IBOT
from hardviews.networks.backbones import build_backbone, create_backbone, feature_dim, patch_size
from hardviews.networks.exports import check_timm, check_torchvision, for_torchvision
from hardviews.networks.weights import load_weights


class Tiny(nn.Module):
    """A network of one's own, of patches of 4 pixels."""

    patch_size = 4

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3))  # type: ignore[no-any-return]


def tiny(width: int = 6) -> nn.Module:
    return Tiny(width)


def number() -> int:
    return 3


def with_maps() -> nn.Module:
    return nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize(
    ("name", "features", "size"),
    [
        ("resnet18", 512, 32),
        ("shufflenet_v2_x0_5", 1024, 32),
        ("mobilenet_v3_small", 1024, 32),
        ("squeezenet1_1", 512, 64),
        ("googlenet", 1024, 64),
        ("regnet_y_400mf", 440, 32),
    ],
)
def test_torchvision_models_give_what_their_heads_are_given(name: str, features: int, size: int) -> None:
    backbone = create_backbone(f"torchvision:{name}", size)
    assert backbone.training
    images = torch.rand(2, 3, size, size)
    backbone.train()
    assert backbone(images).shape == (2, features) == (2, feature_dim(backbone))
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(**extra).eval()
    missing = theirs.load_state_dict(backbone.state_dict(), strict=False).missing_keys
    assert {key.rpartition(".")[2] for key in missing} == {"weight", "bias"}  # the head alone
    assert len({key.rpartition(".")[0] for key in missing}) == 1
    head = theirs.get_submodule(missing[0].rpartition(".")[0])
    given: list[Tensor] = []
    if isinstance(head, nn.Linear):
        head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        theirs(images)
        assert torch.equal(backbone.eval()(images), given[0])
    else:  # a convolution that gives the scores, whose ReLU and mean come after
        head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].relu().mean((2, 3))))
        theirs(images)
        torch.testing.assert_close(backbone.eval()(images), given[0])


def test_torchvisions_vit_is_made_for_whole_patches_of_the_images() -> None:
    built = build_backbone("torchvision:vit_b_32", 70)  # 64 is the nearest of whole patches
    assert patch_size(built.backbone) == 32
    assert built.backbone.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 768)
    assert for_torchvision(built, 64).arguments == {"image_size": 64}
    check_torchvision(built, 64)
    with pytest.raises(InputError, match=r"timm has no torchvision:vit_b_32; export it as torchvision, safe"):
        check_timm(built)


def test_torchvisions_preprocessing_is_that_of_its_weights() -> None:
    found: Any = create_backbone("torchvision:swin_t", 32).pretrained_cfg
    ready = torchvision.models.get_model_weights("swin_t").DEFAULT.transforms()
    assert (found["mean"], found["std"]) == (tuple(ready.mean), tuple(ready.std))
    assert (found["input_size"], found["interpolation"]) == ((3, 224, 224), "bicubic")
    assert round(224 / found["crop_pct"]) == ready.resize_size[0] == 232


def test_functions_and_modules_of_ones_own() -> None:
    backbone = create_backbone(f"{__name__}:tiny", 33, width=5)
    assert (feature_dim(backbone), patch_size(backbone)) == (5, 4)
    own = Tiny().eval()
    built = build_backbone(own, 32)
    assert built.architecture == f"object:{__name__}.Tiny"
    assert built.backbone.training
    assert not own.training
    assert built.backbone is not own
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), built.backbone.parameters(), strict=True))
    with pytest.raises(InputError, match="does not declare its number of features; set its num_features"):
        feature_dim(own)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision:resnet19", "did you mean torchvision:resnet"),
        ("torchvision:fcn_resnet50", "unknown backbone 'torchvision:fcn_resnet50'"),
        ("no_such_package:f", "No module named 'no_such_package'; give package.module:function"),
        (f"{__name__}:nothing", "has no function nothing"),
        (f"{__name__}:number", "returned int, not a torch.nn.Module"),
        (f"{__name__}:with_maps", r"yields \[1, 4, 30, 30\] for one image, not one feature vector"),
        ("object:some.Net", "was given as a Python object, which a run folder can't rebuild"),
    ],
)
def test_wrong_ones_are_named_in_one_line(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        create_backbone(name, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "torchvision:resnet18", "stem": "cifar"}, "only timm's ResNets have one"),
        ({"name": "torchvision:resnet18", "drop_path_rate": 0.1}, "unexpected keyword argument 'drop_path_rate'"),
        ({"name": f"{__name__}:tiny", "pretrained": True}, "load the weights in the function"),
        ({"name": f"{__name__}:tiny", "depth": 1}, "unexpected keyword argument 'depth'"),
        ({"name": "torchvision:vit_b_32", "image_size": 20}, None),
    ],
)
def test_what_they_do_not_take_is_named(arguments: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert create_backbone(**arguments) is not None  # 32 is the nearest of whole patches
        return
    with pytest.raises(InputError, match=says):
        create_backbone(**({"image_size": 32} | arguments))


def test_ibot_names_what_they_lack() -> None:
    with pytest.raises(InputError, match=r"Tiny has no patch tokens to mask: it lacks timm's patch_embed, num_prefix_"):
        IBOT(create_backbone(f"{__name__}:tiny", 32), IBOT.default_plan(32), prototypes=8)


# -- transformers ------------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def saved(folder: Path, kind: str, **settings: Any) -> Any:
    """A random small model of transformers, saved to a folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, f"{kind}Config")(**settings))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "settings", "size", "feature"),
    [
        ("Dinov2", SMALL, 48, lambda out: out.pooler_output),
        ("ViT", SMALL | {"intermediate_size": 32}, 32, lambda out: out.last_hidden_state[:, 0]),
        ("DeiT", SMALL | {"intermediate_size": 32}, 32, lambda out: out.last_hidden_state[:, 0]),
        ("SiglipVision", SMALL | {"intermediate_size": 32}, 32, lambda out: out.pooler_output),
        ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}, 32, lambda o: o[1].flatten(1)),
        ("ConvNext", {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}, 32, lambda out: out.pooler_output),
    ],
)
def test_transformers_give_their_own_features(
    kind: str, settings: dict[str, Any], size: int, feature: Any, tmp_path: Path
) -> None:
    theirs = saved(tmp_path, kind, **settings)
    backbone = create_backbone(f"hf:{tmp_path}", size, pretrained=True)
    assert backbone.training
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        wanted = feature(theirs(pixel_values=images))
        assert torch.equal(backbone.eval()(images), wanted)
    assert wanted.shape == (2, feature_dim(backbone))
    patches = {"ResNet": 1, "ConvNext": 4}
    assert patch_size(backbone) == patches.get(kind, 8)
    backbone.train()(images).sum().backward()  # DDP waits for the gradient of every parameter
    assert not [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]


def test_transformers_take_other_sizes_and_settings(tmp_path: Path) -> None:
    saved(tmp_path, "ViT", **SMALL, intermediate_size=32)
    backbone = create_backbone(f"hf:{tmp_path}", 32, num_hidden_layers=2, hidden_size=24)
    assert feature_dim(backbone) == 24
    assert backbone.eval()(torch.rand(1, 3, 56, 56)).shape == (1, 24)
    with pytest.raises(InputError, match="its configuration has no drop_path_rate_"):
        create_backbone(f"hf:{tmp_path}", 32, drop_path_rate_=0.1)
    (tmp_path / "config.json").write_text("no JSON")
    with pytest.raises(InputError, match=rf"backbone 'hf:{tmp_path}': it could not be built") as caught:
        create_backbone(f"hf:{tmp_path}", 32)
    assert "\n" not in str(caught.value)


def test_weights_of_transformers_fit_under_their_own_names(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "Dinov2", **SMALL)
    backbone = create_backbone(f"hf:{tmp_path}", 32)
    match = load_weights(backbone, {f"dinov2.{k}": v for k, v in theirs.state_dict().items()} | theirs.state_dict(), "")
    assert match.missing == []
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(backbone.eval()(images), theirs(images).pooler_output)
    state = backbone.state_dict()  # a run's names
    assert load_weights(create_backbone(f"hf:{tmp_path}", 32), state, "").prefix == "model."


def test_transformers_preprocessing_is_that_of_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, "Dinov2", **SMALL)
    assert create_backbone(f"hf:{tmp_path}", 32).pretrained_cfg == {}
    transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, image_mean=[0.1, 0.2, 0.3], resample=2
    ).save_pretrained(tmp_path)
    found: Any = create_backbone(f"hf:{tmp_path}", 32).pretrained_cfg
    assert (found["mean"], found["input_size"], found["crop_pct"]) == ((0.1, 0.2, 0.3), (3, 224, 224), 224 / 256)
    assert found["interpolation"] == "bilinear"


def test_text_models_are_refused(tmp_path: Path) -> None:
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    saved(tmp_path, "Bert", **settings)
    with pytest.raises(InputError, match="takes input_ids, not images"):
        create_backbone(f"hf:{tmp_path}", 32)
