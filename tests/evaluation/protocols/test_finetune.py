"""Fine-tuning: learns, with few labels too, leaves the backbone and all generators as they were, and repeats itself."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch

from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources import ImageSource
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.evaluation.protocols import finetune as module
from hardviews.evaluation.protocols.finetune import Augmented, finetune
from tests.evaluation.protocols.given import small_bench

PLAIN: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "rand_augment": "", "smoothing": 0.0, "warmup_epochs": 0}


class TwoTones(Shapes):
    """Dark and light pictures: what anything learns at once."""

    def read(self, index: int, bounds: Bounds = Bounds()) -> torch.Tensor:  # noqa: B008
        noise = torch.randint(0, 40, (32, 32, 3), generator=torch.Generator().manual_seed(index))
        return (noise + 160 * (index % 2)).to(torch.uint8)


def two_tones(train: int = 64) -> Any:
    bench = small_bench()
    train_set, test_set = TwoTones("train", train), TwoTones("test", 40)
    for source in (train_set, test_set):
        source.labels = torch.arange(len(source)) % 2
    bench.open = lambda: (train_set, test_set)
    return bench


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_it_learns_and_leaves_everything_as_it_was(name: str) -> None:
    bench = two_tones()
    bench.backbone = small_bench(name=name).backbone
    before = copy.deepcopy(bench.backbone.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    figures = dict(finetune(bench, fractions=[0.25, 1.0], epochs=12, batch_size=16, lr=0.05, **PLAIN))
    assert list(figures) == ["finetune_top1_25%", "finetune_top1"]
    assert figures["finetune_top1"] > 0.9
    for key, value in bench.backbone.state_dict().items():
        assert torch.equal(value, before[key])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_workers_change_nothing() -> None:
    def weights(workers: int) -> dict[str, torch.Tensor]:
        seen: list[Any] = []
        original = module.predictions

        def spied(bench: Any, model: Any) -> Any:
            seen.append(model.state_dict())
            return original(bench, model)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "predictions", spied)
            list(finetune(small_bench(workers=workers), epochs=1, batch_size=32))
        return seen[0]  # type: ignore[no-any-return]

    here, there = weights(0), weights(2)
    for key, value in here.items():
        assert torch.equal(value, there[key]), key


def break_two(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures 4 and 8 can't be read."""
    read = source.read

    def broken(index: int, bounds: Bounds) -> torch.Tensor:
        if index in (4, 8):
            raise UnreadableImage(str(index), "broken")
        return read(index, bounds)

    monkeypatch.setattr(source, "read", broken)


def test_an_unreadable_picture_gives_way_to_one_of_the_same_part(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = small_bench(train=20)
    source = bench.sources[0]
    break_two(source, monkeypatch)
    pictures = Augmented(bench, torch.tensor([2, 4, 8, 11]), "")
    assert [pictures[0, place][1] for place in range(4)] == [0, 3, 3, 3]


@pytest.mark.parametrize(
    "wrong", [{"fractions": 0.0}, {"fractions": [0.1, 2.0]}, {"epochs": 0}, {"batch_size": 1}, {"layer_decay": 2.0}]
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        list(finetune(small_bench(), **wrong))


def test_layers_near_the_input_learn_more_slowly() -> None:
    moved = {}
    original = module.predictions

    def spied(bench: Any, model: Any) -> Any:
        before = bench.backbone.state_dict()
        for key in ("blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"):
            moved[key] = float((model.state_dict()[key] - before[key]).abs().mean())
        return original(bench, model)

    bench = small_bench(name="vit_tiny_patch16_224")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "predictions", spied)
        list(finetune(bench, epochs=1, batch_size=50, layer_decay=0.1, weight_decay=0.0, **PLAIN))
    assert moved["blocks.0.mlp.fc1.weight"] < 0.2 * moved["blocks.1.mlp.fc1.weight"]


def test_every_picture_survives_its_augmentation() -> None:
    pictures = Augmented(small_bench(train=100), torch.arange(100), module.RAND_AUGMENT)
    shapes = {tuple(pictures[epoch, place][0].shape) for epoch in range(10) for place in range(100)}
    assert shapes == {(3, 32, 32)}


def test_an_augmentation_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Augmented(small_bench(), torch.arange(100), "rand-m10-inc1")

    def fails(picture: Any) -> Any:
        raise ValueError("bits must be between or equal to 1 and 8")

    monkeypatch.setattr(pictures, "transform", fails)
    with pytest.raises(InputError, match="'rand-m10-inc1' fails: bits"):
        pictures[0, 0]


def test_pictures_that_can_not_be_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = small_bench(train=20, test=20)
    break_two(bench.sources[1], monkeypatch)
    list(finetune(bench, fractions=[0.5, 1.0], epochs=1, batch_size=4))
    assert sum(bench.left_out.values()) == 2
