"""Evaluation's preprocessing as a torchvision v2 transform."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from hardviews.data.reading.decode import Bounds
from hardviews.data.sources.dataset import read_image
from hardviews.evaluation.features import Preprocessing
from hardviews.views.centre import central_square


class CentralSquare(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Resizes by Pillow and cuts out the central square, as evaluation does.

    Takes a PIL image, or what ``read_image`` takes: an array, a tensor, a path. Returns a ``tv_tensors.Image``, levels
    0 to 255 ``[C, S, S]``: uint8 of 8-bit RGB and grey, float32 of others.

    Args:
        preprocessing: has the side S, the crop, the filter and the mode, and what images are.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, image: Any) -> Any:
        ready = self.preprocessing
        picture = read_image(image, Bounds(form=ready.form), "image")
        square = central_square(picture, ready.image_size, ready.crop, ready.interpolation, ready.crop_mode, ready.form)
        return tv_tensors.Image(square.permute(2, 0, 1))

    def extra_repr(self) -> str:
        ready = self.preprocessing
        return f"{ready.image_size}, crop={ready.crop:g}, {ready.interpolation}, {ready.crop_mode}"


class ToUnitRange(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Levels divided by 255, as float32. ``ToDtype`` multiplies by 1 / 255 in some versions, which rounds otherwise."""

    def forward(self, image: Tensor) -> Tensor:
        return tv_tensors.wrap(image.to(torch.float32).div_(255), like=image)  # type: ignore[no-any-return]


def transform_of(preprocessing: Preprocessing) -> v2.Compose:
    """From an image to the network's input, float32 ``[C, S, S]``: the numbers that evaluation gives the network."""
    return v2.Compose(
        [
            CentralSquare(preprocessing),
            ToUnitRange(),
            v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
            v2.ToPureTensor(),
        ]
    )
