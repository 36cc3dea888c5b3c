import pytest
import torch
import torchvision.transforms.v2.functional as V
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hardviews.views.centre import centre_plan, centre_views
from hardviews.views.images import ImageBatch
from hardviews.views.render import render


def test_known_squares() -> None:
    size = torch.tensor([[100, 200], [200, 100], [64, 64], [1, 5]])
    expected = torch.tensor([[0.25, 0, 0.75, 1], [0, 0.25, 1, 0.75], [0, 0, 1, 1], [0.4, 0, 0.6, 1]]).double()
    torch.testing.assert_close(centre_views(size).box[0], expected, rtol=0, atol=1e-7)
    inner = centre_views(size[2:3], 0.875).box[0, 0] * 64
    assert inner.tolist() == [4, 4, 60, 60]


@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_shows_what_resizing_and_cutting_shows(mixed: ImageBatch, device: str, crop: float) -> None:
    plan = centre_plan(56, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = mixed[1:3]  # a square and a wide one, large enough that rounding the square to pixels shows little

    def error(part: float) -> float:
        found = render(images.to(device), centre_views(images.size, part).to(device), plan)[0].cpu()
        return (found - torch.stack(expected)).abs().mean().item()

    expected: list[Tensor] = []
    for b in range(2):
        resized = V.resize(images.image(b) / 255, [int(56 / crop)], InterpolationMode.BICUBIC, antialias=True)
        expected.append(V.normalize(V.center_crop(resized, [56, 56]).clamp(0, 1), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    assert error(crop) < 0.03
    assert error(crop - 0.05) > 0.06


def test_a_whole_square_is_torchvisions_resize(mixed: ImageBatch) -> None:
    square = mixed[1:2]
    expected = V.resize(square.image(0) / 255, [56, 56], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    found = render(square, centre_views(square.size), centre_plan(56, (0, 0, 0), (1, 1, 1)))[0][0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_sizes_snap_to_the_patch(mixed: ImageBatch) -> None:
    assert render(mixed, centre_views(mixed.size), centre_plan(60, multiple=16))[0].shape[-1] == 64
