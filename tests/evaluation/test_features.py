"""Features: what a ViT yields of its last blocks, and what is kept on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.subset import Subset
from hardviews.data.sources.torchvision_sets import TorchvisionSet
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.cache import FeatureCache
from hardviews.evaluation.features import encode, extract
from tests.evaluation.protocols.given import READY, small_bench


def test_tokens_are_those_of_the_last_blocks() -> None:
    """As DINO's own evaluation makes them: the class tokens of the last blocks, normed, and the mean of the patches."""
    vit = small_bench(name="vit_tiny_patch16_224").backbone.eval()
    images = torch.randn(4, 3, 32, 32)
    outputs: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda *a: outputs.append(a[2])) for block in vit.blocks]  # type: ignore[union-attr]
    with torch.no_grad():
        pooled = vit(images)
        normed = [vit.norm(output) for output in outputs]  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        vectors, tokens = encode(vit, images, 2)
        assert tokens is not None
        torch.testing.assert_close(vectors, pooled)
        by_hand = torch.cat([normed[0][:, 0], normed[1][:, 0], normed[1][:, 1:].mean(1)], 1)
        torch.testing.assert_close(tokens, by_hand)
        assert encode(vit, images, 9)[1].shape == tokens.shape  # type: ignore[union-attr]  # it has two blocks
        assert encode(vit, images, 0)[1] is None
    assert encode(small_bench().backbone.eval(), images, 4)[1] is None


def counting(bench: Bench) -> list[int]:
    calls: list[int] = []
    bench.backbone.register_forward_hook(lambda *seen: calls.append(len(seen[1][0])))
    return calls


def test_features_are_made_once_and_found_again(tmp_path: Path) -> None:
    bench = small_bench(cache=FeatureCache(tmp_path / "kept"), batch_size=30)
    calls = counting(bench)
    made = bench.labelled
    assert sum(calls) == 140
    again = small_bench(cache=FeatureCache(tmp_path / "kept"))
    calls = counting(again)
    found = again.labelled
    assert not calls
    for one, other in zip(made, found, strict=True):
        assert torch.equal(one.vectors, other.vectors)
        assert torch.equal(one.labels, other.labels)
    assert not list((tmp_path / "kept").glob("*.part"))


def test_whatever_features_depend_on_makes_them_anew(tmp_path: Path) -> None:
    bench = small_bench(name="vit_tiny_patch16_224")
    source = Shapes("train", 50)

    def key(network: nn.Module = bench.backbone, data: object = source, name: str = "vit", **changes: object) -> str:
        given = {"preprocessing": READY, "precision": "float32"} | changes
        return FeatureCache(tmp_path, name).key(network, data, *given.values())  # type: ignore[arg-type]

    with torch.no_grad():
        other = small_bench(name="vit_tiny_patch16_224").backbone
        next(other.parameters()).add_(1e-3)
    keys = [
        key(), key(other), key(data=Shapes("train", 51)), key(data=Shapes("test", 50)), key(name="vit of 3 heads"),
        key(data=Subset(source, torch.arange(50))), key(data=Subset(source, torch.arange(1, 50))),
        key(preprocessing=replace(READY, crop=0.875)), key(precision="bfloat16"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key() == key(small_bench(name="vit_tiny_patch16_224").backbone)


def test_tokens_serve_those_who_want_none_and_not_the_other_way_round(tmp_path: Path) -> None:
    made = []
    for blocks in (0, 2, 0, 2, 1):
        bench = small_bench(name="vit_tiny_patch16_224", cache=FeatureCache(tmp_path), blocks=blocks)
        calls: list[int] = []
        bench.backbone.blocks[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))  # type: ignore[index,union-attr]
        tokens = bench.features[0].tokens
        assert (tokens is None) == (blocks == 0)
        assert tokens is None or tokens.shape[1] == 24 * (blocks + 1)
        made.append(bool(calls))
    assert made == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}),
        ("deit3_small_patch16_224", {}),
        ("beit_base_patch16_224", {}),
        ("eva02_tiny_patch14_224", {}),
    ],
)
def test_tokens_of_every_kind_of_vit_leave_its_features_as_they_are(name: str, keywords: dict[str, Any]) -> None:
    vit = timm.create_model(name, num_classes=0, depth=2, embed_dim=48, num_heads=3, **keywords).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        vectors, tokens = encode(vit, images, 2)
        torch.testing.assert_close(vectors, vit(images))
    assert tokens is not None
    assert tokens.shape == (2, 48 * (2 if keywords.get("class_token") is False else 3))


@pytest.mark.parametrize("fault", ["truncated", "garbage", "missing"])
def test_damaged_features_are_made_anew(tmp_path: Path, fault: str) -> None:
    made = small_bench(cache=FeatureCache(tmp_path)).features
    for file in tmp_path.glob("*/vectors.npy"):
        if fault == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-100] if fault == "truncated" else b"no array")
    again = small_bench(cache=FeatureCache(tmp_path))
    calls = counting(again)
    assert torch.equal(again.features[0].vectors, made[0].vectors)
    assert sum(calls) == 140
    assert np.load(next(tmp_path.glob("*/vectors.npy"))).shape[1] == 16  # and kept again


def test_a_folder_that_takes_nothing_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    bench = small_bench(cache=FeatureCache(tmp_path / "file" / "features"))
    assert len(bench.features[0].rows) == 100
    assert "can't be cached" in caplog.text


def test_data_without_labels_has_features() -> None:
    bench = small_bench()
    source = Shapes("train", 10)
    source.labels = None
    assert extract(bench.backbone, source, READY).labels.tolist() == [-1] * 10


def test_a_held_out_tenth_is_shared_out() -> None:
    bench = small_bench(seed=3)
    bench.open = lambda: (Shapes("train", 100), None)
    train, test = bench.labelled
    assert (len(train.labels), len(test.labels)) == (90, 10)
    whole = extract(bench.backbone, Shapes("train", 100), READY)
    rows = bench.sources[1].rows  # type: ignore[attr-defined]
    torch.testing.assert_close(test.vectors, whole.vectors[rows])
    assert torch.equal(test.labels, whole.labels[rows])


def test_sets_of_uneven_classes_are_scored_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = small_bench()
    predictions, labels = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    assert bench.score(predictions, labels) == ("top1", 0.75)
    for name, expected in (("pets", "mean_per_class"), ("cifar10", "top1")):
        pets = TorchvisionSet.__new__(TorchvisionSet)
        pets.name, pets.labels = name, torch.tensor([0, 1])
        uneven = small_bench()
        uneven.open = lambda pets=pets: (pets, pets)  # type: ignore[misc]
        assert uneven.metric == expected
    bench.sources[0].name = "pets"  # a folder that is called so is none
    assert bench.metric == "top1"
    monkeypatch.setattr(Bench, "metric", "mean_per_class")
    metric, value = bench.score(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1]))
    assert metric == "mean_per_class"
    assert value == pytest.approx((1 + 1 / 3) / 2)
