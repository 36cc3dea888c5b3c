"""Feature maps and pyramids: levels, strides, and what is trained."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.evaluation.detector import Anchors, InFloat32, pooler
from hardviews.evaluation.pyramid import Pyramid, Stages, finest_map
from hardviews.networks.backbones import create_backbone


def resnet(**keywords: Any) -> nn.Module:
    return create_backbone("resnet18", keywords.pop("size", 224), channels=(8, 16, 24, 32), **keywords)


def vit(patch: int, **keywords: Any) -> Any:
    keywords = {"embed_dim": 48, "num_heads": 2, "depth": 2} | keywords
    return create_backbone("vit_tiny_patch16_224", 8 * patch, patch_size=patch, **keywords).eval()


BACKBONES: dict[str, tuple[Callable[[], Any], list[float], int]] = {
    "resnet18": (lambda: resnet(), [4, 8, 16, 32], 32),
    "cifar stem": (lambda: resnet(size=32), [1, 2, 4, 8], 8),
    "convnext": (lambda: create_backbone("convnext_atto", 64), [4, 8, 16, 32], 32),
    "vit 16": (lambda: vit(16), [4, 8, 16, 32], 32),
    "vit 8": (lambda: vit(8), [4, 8, 16, 32], 32),
    "vit 14": (lambda: vit(14), [3.5, 7, 14, 28], 28),
    "vit 32": (lambda: vit(32), [4, 8, 16, 32], 32),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (33, 101), (130, 70)])
def test_levels_have_the_strides_they_say(name: str, size: tuple[int, int]) -> None:
    make, strides, multiple = BACKBONES[name]
    pyramid = Pyramid(make(), 12).eval()
    assert pyramid.strides == [*strides, 2 * strides[-1]]
    assert pyramid.multiple == multiple
    # as GeneralizedRCNNTransform pads
    height, width = (math.ceil(side / multiple) * multiple for side in size)
    with torch.no_grad():
        levels = pyramid(torch.rand(2, 3, height, width))
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    for level, stride in zip(levels.values(), pyramid.strides, strict=True):
        assert level.shape == (2, 12, math.ceil(height / stride), math.ceil(width / stride))
        assert level.isfinite().all()
        assert level.std() > 0


@pytest.mark.parametrize("patch", [8, 16])
def test_the_map_of_a_vit_is_its_tokens(patch: int) -> None:
    backbone = vit(patch)
    images = torch.rand(2, 3, 4 * patch, 6 * patch)  # not the size it was made for
    with torch.no_grad():
        (tokens,) = Stages(backbone)(images)
        expected = backbone.forward_features(images)[:, backbone.num_prefix_tokens :]
    assert torch.equal(tokens.flatten(2).transpose(1, 2), expected)
    assert tokens.shape[-2:] == (4, 6)


def test_the_maps_of_a_resnet_are_its_stages() -> None:
    backbone: Any = resnet().eval()
    images = torch.rand(2, 3, 64, 96)
    seen: list[Tensor] = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        stage.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    stages = Stages(backbone)
    seen.clear()
    with torch.no_grad():
        maps = stages(images)
    assert stages.channels == [8, 16, 24, 32]
    for ours, theirs in zip(maps, seen, strict=True):
        assert torch.equal(ours, theirs)
    assert Stages(backbone, 2).strides == [16, 32]


def test_several_maps_become_one() -> None:
    coarse, fine = torch.rand(2, 3, 4, 6), torch.rand(2, 5, 8, 12)
    one = finest_map([fine, coarse])
    assert one.shape == (2, 8, 8, 12)
    assert torch.equal(one[:, :5], fine)
    assert len(Stages(vit(8), 4, blocks=2).indices) == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_trained(frozen: bool) -> None:
    backbone: Any = resnet()
    pyramid = Pyramid(backbone, 8, frozen).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(level.square().mean() for level in pyramid(torch.rand(2, 3, 64, 64)).values()).backward()
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name  # statistics of batch norms stay
    assert (backbone.conv1.weight.grad is None) == frozen
    assert backbone.bn1.weight.grad is None
    assert pyramid.top_down.inner_blocks[0][0].weight.grad is not None
    assert pyramid.top_down.training
    assert not backbone.bn1.training
    assert backbone.training != frozen


def test_backbones_that_show_no_maps_are_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(1, 1)

    with pytest.raises(InputError, match="Plain exposes no feature maps"):
        Stages(Plain())
    with pytest.raises(InputError, match=r"exposes no feature maps for images of 128 pixels: [^\n]+$"):
        Stages(create_backbone("mixer_s16_224", 224))


def test_anchors_lie_on_their_cells() -> None:
    anchors = Anchors([3.5, 7.0])
    anchors.set_cell_anchors(torch.float32, torch.device("cpu"))
    fine, coarse = anchors.grid_anchors([[4, 6], [2, 3]], [])
    centres = (fine.view(4, 6, 3, 4)[..., :2] + fine.view(4, 6, 3, 4)[..., 2:]) / 2
    assert torch.equal(centres[2, 5], torch.tensor([[17.5, 7.0]]).expand(3, 2))
    square = coarse.view(2, 3, 3, 4)[0, 0, 1]
    assert torch.equal(square[2:] - square[:2], torch.tensor([56.0, 56.0]))


def test_regions_are_cut_out_where_they_lie() -> None:
    """Of a map that holds its own coordinates; torchvision's guess at strides fails on such sizes."""
    strides = [4.0, 8.0, 16.0, 32.0]
    maps = {}
    for level, stride in enumerate(strides):
        rows, columns = torch.meshgrid(torch.arange(96 / stride), torch.arange(64 / stride), indexing="ij")
        maps[str(level)] = (torch.stack([columns, rows]) + 0.5)[None] * stride
    box = torch.tensor([[8.0, 20.0, 40.0, 60.0]])
    cut = pooler(strides, 7)(maps, [box], [(65, 64)])
    torch.testing.assert_close(cut.mean((2, 3)), torch.tensor([[24.0, 40.0]]), atol=3, rtol=0)
    assert cut[0, 0].diff(dim=1).gt(0).all()


def test_heads_answer_in_float32() -> None:
    class Two(nn.Module):
        def forward(self, one: Tensor) -> tuple[Tensor, list[Tensor]]:
            return one, [one, one]

    first, (second, third) = InFloat32(Two())(torch.ones(2, dtype=torch.bfloat16))
    assert {first.dtype, second.dtype, third.dtype} == {torch.float32}
