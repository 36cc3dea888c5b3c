"""Features: what a ViT yields of its last blocks, and what is kept on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardviews.data.shapes import Shapes
from hardviews.data.subset import Subset
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

    def key(network: nn.Module = bench.backbone, data: object = source, **changes: object) -> str:
        given = {"preprocessing": READY, "blocks": 0, "precision": "float32"} | changes
        return FeatureCache.key(network, data, *given.values())  # type: ignore[arg-type]

    with torch.no_grad():
        other = small_bench(name="vit_tiny_patch16_224").backbone
        next(other.parameters()).add_(1e-3)
    keys = [
        key(), key(other), key(data=Shapes("train", 51)), key(data=Shapes("test", 50)), key(blocks=1),
        key(data=Subset(source, torch.arange(50))), key(data=Subset(source, torch.arange(1, 50))),
        key(preprocessing=replace(READY, crop=0.875)), key(precision="bfloat16"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key() == key(small_bench(name="vit_tiny_patch16_224").backbone)


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
    assert "can't be kept" in caplog.text


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


def test_sets_of_uneven_classes_are_scored_by_class() -> None:
    bench = small_bench()
    predictions, labels = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    assert bench.score(predictions, labels) == ("top1", 0.75)
    uneven = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    bench.sources[0].name = "pets"
    metric, value = bench.score(*uneven)
    assert metric == "mean_per_class"
    assert value == pytest.approx((1 + 1 / 3) / 2)
