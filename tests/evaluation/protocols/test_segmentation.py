"""A linear head on frozen features, and how it is measured, against scikit-learn."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch import nn
from torch.nn import functional as F

from hardviews.data.labelled.semantic import IGNORED, Segmented
from hardviews.errors import InputError, RunError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Preprocessing
from hardviews.evaluation.protocols.segmentation import best_class, confusions, crop, mean_iou, segmentation
from hardviews.networks.backbones import create_backbone

READY = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def bench_on(data: str, backbone: nn.Module | None = None, **options: Any) -> Bench:
    def refuse() -> Any:
        raise AssertionError("classification data was opened")

    backbone = backbone or create_backbone("resnet18", 32, channels=(8, 8, 16, 16), layers=(1, 1, 1, 1))
    return Bench(backbone, data, refuse, READY, **options)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Pictures of odd sizes with a bar: red is class 1, blue class 2, a border of the bar is ignored."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for index in range(count):
            height, width = random.integers(40, 64, 2)
            left = int(random.integers(4, width - 20))
            image = random.integers(90, 160, (height, width, 3)).astype(np.uint8)
            mask = np.zeros((height, width), dtype=np.uint8)
            image[:, left : left + 16] = (255, 0, 0) if index % 2 else (0, 0, 255)
            mask[:, left - 1 : left + 17] = IGNORED
            mask[:, left : left + 16] = 1 if index % 2 else 2
            Image.fromarray(image).save(tmp_path / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{index}.png")
    return tmp_path


def test_equals_scikit_learn_and_ignores_255() -> None:
    random = np.random.default_rng(1)
    truth = random.choice([0, 1, 2, 4, IGNORED], (30, 40))
    right = np.where(truth == IGNORED, 3, truth)
    found = np.where(random.random((30, 40)) < 0.6, right, random.integers(0, 5, (30, 40)))
    confusion = confusions(torch.from_numpy(truth), torch.from_numpy(found), 7)  # 5 and 6 never occur
    counted = truth != IGNORED
    assert mean_iou(confusion) == pytest.approx(jaccard_score(truth[counted], found[counted], average="macro"))
    accuracy = (confusion.diagonal().sum() / confusion.sum()).item()
    assert accuracy == pytest.approx(accuracy_score(truth[counted], found[counted]))
    assert 0.2 < mean_iou(confusion) < 0.8
    found[~counted] = 4
    assert torch.equal(confusions(torch.from_numpy(truth), torch.from_numpy(found), 7), confusion)


def test_parts_of_the_classes_change_nothing() -> None:
    logits = torch.randn(2, 37, 5, 6, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, (23, 31), mode="bilinear").argmax(1)
    assert torch.equal(best_class(logits, [23, 31]), whole)
    assert (whole > 31).any()


def test_learns_what_is_there_to_learn_and_leaves_the_rest_alone(colours: Path) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, channels=(8, 8, 16, 16), layers=(1, 1, 1, 1)).train()
    bench = bench_on(str(colours), backbone, workers=2)
    before, random = deepcopy(backbone.state_dict()), torch.get_rng_state()
    settings: dict[str, Any] = {"image_size": 40, "batch_size": 6, "lr": 0.05, "layers": 4}
    untrained = dict(segmentation(bench, steps=0, **settings))
    trained = dict(segmentation(bench, steps=30, **settings))
    assert untrained["segmentation_miou"] < 0.3
    assert trained["segmentation_miou"] > 0.8
    assert trained["segmentation_pixel_accuracy"] > 0.9
    assert list(trained) == ["segmentation_miou", "segmentation_pixel_accuracy"]
    assert torch.equal(random, torch.get_rng_state())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in backbone.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.parameters())
    torch.manual_seed(99)  # figures come from the bench's seed alone
    assert dict(segmentation(bench, steps=30, **settings)) == trained
    bench.seed = 1
    assert dict(segmentation(bench, steps=30, **settings)) != trained


def test_transformers_and_shapes() -> None:
    vit = create_backbone("vit_tiny_patch16_224", 32, patch_size=8, embed_dim=48, num_heads=2, depth=2)
    told: list[tuple[str, int]] = []

    def progress(name: str, length: int) -> Any:
        told.append((name, length))
        return lambda _done: None

    bench = bench_on("shapes:10", vit, progress=progress)
    figures = dict(segmentation(bench, 1, batch_size=4, image_size=36, layers=2))
    assert 0 < figures["segmentation_miou"] < figures["segmentation_pixel_accuracy"] < 1
    assert told == [("segmentation", 3), ("segmentation test", 2)]


def test_crops_keep_picture_and_mask_together() -> None:
    mask = torch.randint(0, 256, (37, 61), generator=torch.Generator().manual_seed(0))
    scene = Segmented(mask[..., None].expand(-1, -1, 3).byte(), mask)
    for flip in (False, True):
        image, part = crop(scene, 37, flip, (0.0, 1.0))
        assert image.shape == (3, 37, 37)
        assert torch.equal((image[0] * 255).round().long(), part)
        expected = mask[:, -37:]
        assert torch.equal(part, expected.flip(1) if flip else expected)
    image, part = crop(scene, 16, False, (0.3, 0.7))
    assert image.shape == (3, 16, 16)
    assert set(part.flatten().tolist()) <= set(mask.flatten().tolist())  # classes are not blended


def test_crops_of_nothing_but_what_is_ignored_train_nothing(colours: Path) -> None:
    for mask in (colours / "train" / "masks").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(mask)), IGNORED)).save(mask)
    figures = dict(segmentation(bench_on(str(colours)), steps=2, image_size=32, batch_size=4))
    assert figures == dict(segmentation(bench_on(str(colours)), steps=0, image_size=32))


def test_errors_are_one_line(colours: Path) -> None:
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"layers": 0}, {"image_size": -3}, {"batch_size": 0}, {"steps": -1}):
        with pytest.raises(InputError, match=r"^segmentation: [^\n]+$"):
            list(segmentation(bench_on(str(colours)), **wrong))
    with pytest.raises(RunError, match="not finite at step 1"):
        list(segmentation(bench_on(str(colours)), steps=4, image_size=32, lr=float("inf")))
    for mask in (colours / "val" / "masks").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(mask)), IGNORED)).save(mask)
    with pytest.raises(InputError, match="all pixels are 255"):
        list(segmentation(bench_on(str(colours)), steps=0, image_size=32))
    for mask in (colours / "train" / "masks").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(mask)), IGNORED)).save(mask)
    with pytest.raises(InputError, match="only one class"):
        list(segmentation(bench_on(str(colours)), steps=0))
