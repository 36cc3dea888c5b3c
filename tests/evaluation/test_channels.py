"""Evaluation of backbones whose images are not 8-bit RGB."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from hardviews.data.loading.in_order import in_order
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError, RunError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.cache import FORMAT, FeatureCache
from hardviews.evaluation.features import Preprocessing, encoded, extract
from hardviews.evaluation.protocols.detection import detection
from hardviews.evaluation.protocols.finetune import Augmented, finetune
from hardviews.evaluation.protocols.knn import knn
from hardviews.evaluation.protocols.linear import linear
from hardviews.evaluation.protocols.rankme import rankme
from hardviews.evaluation.protocols.segmentation import segmentation
from hardviews.networks.backbones import create_backbone
from hardviews.views.pixels import Pixels
from tests.evaluation.given import Stored, two_tones
from tests.evaluation.protocols.given import READY, small_bench
from tests.views.test_centre import FORMS
from tests.views.test_channels import by_hand, stored

GREY = Pixels(1, "uint16", (0.0,), (4095.0,), rgb=False)
FOUR = Pixels(4, "uint16", (0.0,), (10000.0,), rgb=False)


class Looking(nn.Module):
    """A backbone that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def ready_for(form: Pixels, side: int = 32, crop: float = 0.875) -> Preprocessing:
    mean, std = (tuple(first + 0.01 * c for c in range(form.channels)) for first in (0.3, 0.2))
    return Preprocessing(side, mean, std, crop, form=form)


def bench_for(form: Pixels, train: int = 64, test: int = 40, **options: Any) -> Bench:
    torch.manual_seed(0)
    backbone = create_backbone(
        "resnet18", 32, image_channels=form.channels, channels=[8, 16, 16, 16], layers=[1, 1, 1, 1]
    )
    sources = two_tones(train, form), two_tones(test, form)
    return Bench(backbone, "stored", lambda: sources, ready_for(form, crop=1.0), **options)


@pytest.mark.parametrize("form", [*FORMS, Pixels(1, "uint8", rgb=False)], ids=lambda f: f"{f.channels}-{f.dtype}")
def test_the_network_sees_what_torchvision_makes_of_every_channel(form: Pixels) -> None:
    pictures = [stored(form, 40 + 9 * k, 90 - 7 * k, seed=k) for k in range(5)]
    kept = [picture.clone() for picture in pictures]
    ready = ready_for(form)
    parts = list(encoded(Looking(), Stored(pictures, form), ready, batch_size=2, workers=int(form.channels == 13)))
    images = torch.cat([part.images for part in parts])
    assert images.is_contiguous()
    eyes = Compose([Resize(36, InterpolationMode.BICUBIC), CenterCrop(32)])
    for image, picture in zip(images, pictures, strict=True):
        kind = np.uint8 if form.dtype == "uint8" and form.channels == 1 else np.float32  # which Pillow resizes
        levels = (by_hand(picture, form) * 255).numpy()
        levels = levels.round() if kind is np.uint8 else levels
        seen = [np.asarray(eyes(Image.fromarray(channel.astype(kind)))) for channel in levels]
        unit = torch.from_numpy(np.stack(seen).astype(np.float32)).clamp(0, 255) / 255
        wanted = (unit - torch.tensor(ready.mean)[:, None, None]) / torch.tensor(ready.std)[:, None, None]
        torch.testing.assert_close(image, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([part.vectors for part in parts]), images.mean((2, 3)))
    assert all(
        torch.equal(one, other) for one, other in zip(pictures, kept, strict=True)
    )  # nothing is changed in place


def test_pixels_to_compare_are_of_all_channels() -> None:
    source = two_tones(6, FOUR)
    found = extract(Looking(), source, ready_for(FOUR), pixels=True)
    (part,) = encoded(Looking(), source, ready_for(FOUR))
    assert found.pixels is not None
    assert torch.equal(found.pixels, adaptive_avg_pool2d(part.images, 32).flatten(1))
    assert found.pixels.shape == (6, 4 * 32 * 32)


def test_batches_in_order_have_the_form() -> None:
    (batch,) = in_order(two_tones(3, FOUR), 8, form=FOUR)
    assert batch.form == FOUR
    assert batch.pixels.dtype == torch.uint16


def test_images_of_another_form_are_named() -> None:
    with pytest.raises(InputError, match=re.escape("stored: no image can be read; the first: stored[0]: 4 channels")):
        extract(Looking(), two_tones(3, FOUR), ready_for(GREY))
    with pytest.raises(InputError, match="mean: 3 numbers for 4 channels; give one for each"):
        Preprocessing(32, (0.5,) * 3, (0.5,) * 3, form=FOUR)


def test_features_of_rgb_from_before_are_still_found(tmp_path: Path) -> None:
    """The key by hand, without a word of channels."""
    bench, source = small_bench(), Shapes("train", 5)
    before = {
        "image_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop": 1.0, "interpolation": "bicubic",
        "crop_mode": "center",
    }  # fmt: skip
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((FORMAT, "n", str(bench.backbone), source.identity(), before, "float32")).encode())
    for name, value in bench.backbone.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    cache = FeatureCache(tmp_path, "n")
    assert cache.key(bench.backbone, source, READY, "float32") == digest.hexdigest()
    forms = [Pixels(), Pixels(low=(3.0,)), Pixels(percentiles=(1.0, 99.0)), Pixels(3, "uint16", high=(9.0,))]
    ready = [Preprocessing(32, (0.5,) * 3, (0.25,) * 3, 1.0, form=form) for form in forms]
    assert len({cache.key(bench.backbone, source, part, "float32") for part in ready}) == 4


@pytest.mark.parametrize("form", [GREY, FOUR], ids=["grey", "four"])
def test_protocols_find_what_shows_in_one_channel(form: Pixels) -> None:
    """Neighbours, and linear layers on random crops: an untrained network tells dark from light."""
    bench = bench_for(form)
    assert dict(knn(bench, k=5))["knn_top1_k5"] > 0.9
    found = dict(linear(bench, [0.1], epochs=4, batch_size=32, augment=True))
    assert found["linear_top1"] > 0.9
    ranks = dict(rankme(bench, 16))
    assert all(np.isfinite(value) for value in ranks.values())


def test_finetuning_learns_from_four_channels(caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_for(FOUR)
    plain: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "warmup_epochs": 0}
    found = dict(finetune(bench, epochs=8, batch_size=8, lr=0.05, **plain))
    assert found["finetune_top1"] > 0.9
    assert "RandAugment is for 8-bit RGB" in caplog.text
    with pytest.raises(InputError, match="rand_augment 'rand-m5' is for 8-bit RGB; give an empty one"):
        list(finetune(bench, epochs=1, rand_augment="rand-m5"))
    bench.preprocessing = ready_for(Pixels(4, "int16", (0.0,), (9.0,), rgb=False))
    with pytest.raises(RunError, match=r"stored: no image can be read; the first: stored\[0\]: 4 channels of uint16"):
        list(finetune(bench, epochs=1, rand_augment=""))


def test_pictures_to_finetune_on_are_crops_and_the_same_in_any_process() -> None:
    bench = bench_for(FOUR)
    pictures, again = (Augmented(bench, torch.arange(64), "") for _ in range(2))
    views = [pictures[epoch, place][0] for epoch in range(4) for place in range(8)]
    assert torch.equal(again[3, 7][0], views[-1])
    assert views[0].shape == (4, 32, 32)
    assert len({view.double().sum().item() for view in views}) == len(views)
    low, high = (torch.tensor([(edge - m) / s for m, s in zip(bench.preprocessing.mean, bench.preprocessing.std,
                 strict=True)]) for edge in (0.0, 1.0))  # fmt: skip
    outside = [((view.amax((1, 2)) > high + 1e-4) | (view.amin((1, 2)) < low - 1e-4)).any() for view in views]
    assert 0 < sum(map(bool, outside)) < len(views)  # timm's erasing puts normal noise into a quarter of them


@pytest.mark.parametrize("protocol", [segmentation, detection])
def test_what_is_for_rgb_says_so(protocol: Any) -> None:
    with pytest.raises(
        InputError, match="its pictures are RGB, and this backbone takes images of 4 channels of uint16"
    ):
        list(protocol(bench_for(FOUR), epochs=1))
