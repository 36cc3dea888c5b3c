"""The square that evaluation sees, against timm's transform, pixel for pixel."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from hardviews.views.centre import CropMode, central_square, form_of_square
from hardviews.views.pixels import Pixels
from tests.views.test_channels import by_hand, stored


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


FORMS = [
    Pixels(1, "uint16", (0.0,), (4095.0,), rgb=False),
    Pixels(4, "uint8", rgb=False),
    Pixels(3, "uint8", (10.0,), (200.0,), rgb=True),
    Pixels(2, "int16", (-1024.0, 0.0), (400.0, 3071.0), rgb=False),
    Pixels(13, "float32", (-0.5,), (1.5,), rgb=False),
    Pixels(3, "uint16", (0.0,), (65535.0,), rgb=True),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.channels}-{form.dtype}")
@pytest.mark.parametrize("size", [(224, 224), (97, 301), (33, 20), (1, 60)])
def test_other_pixels_are_those_of_torchvision_channel_by_channel(size: tuple[int, int], form: Pixels) -> None:
    """torchvision's own resize and crop of Pillow's images of floats, of the levels computed by hand in float64."""
    picture = stored(form, *size)
    levels = (by_hand(picture, form) * 255).numpy().astype(np.float32)  # [C, h, w]
    for side, crop in ((32, 0.875), (71, 1.0)):
        found = central_square(picture, side, crop, form=form)
        eyes = Compose([Resize(int(side / crop), InterpolationMode.BICUBIC), CenterCrop(side)])
        wanted = np.stack([np.asarray(eyes(Image.fromarray(channel))) for channel in levels], -1).clip(0, 255)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)
        assert form_of_square(form) == Pixels(form.channels, "float32", (0.0,), (255.0,), form.rgb)
        assert torch.equal(form_of_square(form).levels(found), found)


@pytest.mark.parametrize("size", [(97, 301), (33, 20), (1, 60)])
def test_eight_bits_of_grey_stay_bytes(size: tuple[int, int]) -> None:
    form = Pixels(1, "uint8", rgb=False)
    grey = noise(*size)[..., :1]
    eyes = Compose([Resize(36, InterpolationMode.BICUBIC), CenterCrop(32)])
    wanted = torch.from_numpy(np.array(eyes(Image.fromarray(grey[..., 0].numpy()))))
    assert torch.equal(central_square(grey, 32, 0.875, form=form)[..., 0], wanted)
    three = Pixels(3, "uint8", rgb=False)  # bands that are not RGB are resized as RGB is
    assert torch.equal(central_square(noise(*size), 32, form=three), central_square(noise(*size), 32))


def test_a_flat_picture_stays_flat_to_the_last_bit() -> None:
    form = Pixels(4, "uint16", (0.0,), (4095.0,), rgb=False)
    flat = torch.full((50, 70, 4), 4095, dtype=torch.uint16)
    assert torch.equal(central_square(flat, 32, 0.875, form=form), torch.full((32, 32, 4), 255.0))
