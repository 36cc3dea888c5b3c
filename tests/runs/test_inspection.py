"""What a report knows of a backbone: its untrained self, its features, its attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from hardviews.cli import main
from hardviews.data.sources import open_source
from hardviews.models.load import run_subject
from hardviews.models.untrained import untrained_backbone
from hardviews.runs.inspection import attention_of, inspect
from hardviews.runs.pictures import name_of
from tests.runs.conftest import TINY

VIT = "--backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.depth 2 --backbone.embed_dim 24"


def trained(out: Path, more: str) -> dict[str, Any]:
    line = f"{TINY} --method simclr --method.dim 8 --data shapes:32 --epochs 1 --knn-epochs 0 {more}"
    assert main(["pretrain", *line.split(), "--out", str(out)]) == 0
    return dict(yaml.safe_load((out / "config.yaml").read_text()))


def same_parameters(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(name == name_ and torch.equal(value, value_) for (name, value), (name_, value_) in pairs)


def test_the_untrained_backbone_is_the_one_that_the_run_began_with(tmp_path: Path) -> None:
    """Of a run whose rate is 0, so that its checkpoint holds the weights of before."""
    still = trained(tmp_path / "still", "--lr 0 --min-lr 0 --seed 3")
    assert same_parameters(untrained_backbone(still), run_subject(tmp_path / "still").backbone)
    assert not same_parameters(untrained_backbone(still | {"seed": 4}), run_subject(tmp_path / "still").backbone)
    # One that began with the weights of another.
    moved = trained(tmp_path / "moved", "--lr 0.1")
    begun = trained(tmp_path / "begun", f"--init {tmp_path / 'moved'} --lr 0.1")
    assert same_parameters(untrained_backbone(begun), run_subject(tmp_path / "moved").backbone)
    assert not same_parameters(untrained_backbone(moved), run_subject(tmp_path / "moved").backbone)


def test_features_are_those_of_the_backbone(tmp_path: Path) -> None:
    config = trained(tmp_path / "run", "")
    source = open_source("shapes:32", split="train")
    found = inspect(tmp_path / "run", config, source)
    assert not isinstance(found, str)
    model = run_subject(tmp_path / "run")
    order = [int(name) for name in (Path(one).stem.split()[-1] for one in found.names)]
    whole = model.embed([source.read(index).numpy() for index in range(len(source))]).numpy()
    assert sorted(order) == list(range(32))
    assert found.after == pytest.approx(whole[order], abs=1e-4)
    assert found.before is not None
    assert not np.allclose(found.before, found.after)
    assert found.labels is not None
    assert source.labels is not None
    assert found.labels.tolist() == source.labels[torch.tensor(order)].tolist()
    assert found.attention_after is None  # no Vision Transformer
    assert found.notes == []


def test_without_weights_or_data_the_reason_is_told(tmp_path: Path) -> None:
    config = trained(tmp_path / "run", "")
    assert inspect(tmp_path / "run", config, "the folder is gone") == "the folder is gone"
    gone = config | {"init": str(tmp_path / "gone")}
    found = inspect(tmp_path / "run", gone, open_source("shapes:32", split="train"))
    assert not isinstance(found, str)
    assert found.before is None
    assert "The untrained backbone could not be made again: init: " in found.notes[0]
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    why = inspect(tmp_path / "run", config, open_source("shapes:32", split="train"))
    assert isinstance(why, str)
    assert "no checkpoint yet" in why


@pytest.mark.parametrize("class_token", [True, False])
def test_attention_is_that_of_the_last_block(class_token: bool) -> None:
    keywords: dict[str, Any] = {} if class_token else {"class_token": False, "global_pool": "avg"}
    vit: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_classes=0, **keywords
    )
    images = torch.randn(3, 3, 32, 32)
    kept: list[torch.Tensor] = []
    attention = vit.blocks[-1].attn
    hook = attention.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    fused = attention.fused_attn
    found = attention_of(vit.train(), images)
    hook.remove()
    assert vit.training
    assert attention.fused_attn == fused
    assert found is not None
    with torch.no_grad():
        tokens = kept[0]
        q, k, _ = attention.qkv(tokens).reshape(3, tokens.shape[1], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
    wanted = weights[:, 0, 1:] if class_token else weights.mean(1)
    wanted = (wanted / wanted.sum(-1, keepdim=True)).reshape(3, 4, 4)
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)
    assert attention_of(timm.create_model("resnet18", num_classes=0), images) is None


def test_a_vit_has_attention_maps(tmp_path: Path) -> None:
    line = TINY.partition("--image-size")[2]
    run = tmp_path / "vit"
    more = f"{VIT} --image-size{line} --method simclr --method.dim 8 --data shapes:32 --epochs 1 --knn-epochs 0"
    assert main(["pretrain", *more.split(), "--out", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="tile">') == 4 * 3  # the picture, before and after, of four pictures


def test_a_picture_is_named_with_its_class_folder(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    source = open_source(str(tmp_path))
    assert [name_of(source, index) for index in range(2)] == ["a/0.png", "b/1.png"]
    assert name_of(open_source(str(tmp_path / "a")), 0) == "0.png"
