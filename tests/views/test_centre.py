"""The square that evaluation sees, against timm's transform, pixel for pixel."""

import tracemalloc

import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from hardviews.views.centre import CropMode, central_square


def noise(height: int, width: int) -> Tensor:
    """Fine enough that every rounding of a size or place shows."""
    return torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_timm(picture: Tensor, side: int, crop: float, interpolation: str, mode: CropMode) -> Tensor:
    transform = create_transform(
        (3, side, side), interpolation=interpolation, crop_pct=crop, crop_mode=mode, mean=(0, 0, 0), std=(1, 1, 1)
    )
    pixels: Tensor = transform(Image.fromarray(picture.numpy()))
    return (pixels * 255).round().to(torch.uint8).permute(1, 2, 0)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [1.0, 0.95, 0.875, 0.5])
@pytest.mark.parametrize("size", [(224, 224), (97, 301), (640, 425), (33, 20), (1, 60), (64, 64), (73, 74)])
def test_pixels_are_timms(size: tuple[int, int], crop: float, mode: CropMode) -> None:
    picture = noise(*size)
    for side in (32, 64, 71):
        found = central_square(picture, side, crop, mode=mode)
        assert torch.equal(found, by_timm(picture, side, crop, "bicubic", mode))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_other_filters_are_timms_too(interpolation: str) -> None:
    picture = noise(90, 120)
    found = central_square(picture, 48, 0.875, interpolation)
    assert torch.equal(found, by_timm(picture, 48, 0.875, interpolation, "center"))


def test_a_picture_of_this_size_is_unchanged() -> None:
    picture = noise(32, 32)
    assert torch.equal(central_square(picture, 32), picture)


@pytest.mark.parametrize("upright", [False, True])
def test_a_long_strip_shows_its_middle_and_fills_no_memory(upright: bool) -> None:
    """Resized whole it would be 64 by 13 million pixels."""
    strip = torch.zeros(5, 1_000_001, 3, dtype=torch.uint8)
    strip[:, 500_000] = 255
    tracemalloc.start()
    found = central_square(strip.transpose(0, 1) if upright else strip, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    profile = found.float().sum((1 if upright else 0, 2))
    middle = (profile * torch.arange(64)).sum() / profile.sum()
    assert middle.item() == pytest.approx(31.5, abs=0.6)
