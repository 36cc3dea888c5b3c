"""What evaluation sees of a picture: the central square of the resized picture, as timm and torchvision make it."""

from math import floor
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CropMode = Literal["center", "squash"]  # timm's words
CROP_MODES = get_args(CropMode)

# A longer picture, in multiples of its shorter side, loses its ends before it is resized: resized whole, a strip of one
# by a million pixels would fill the memory.
LONGEST = 64


def central_square(
    picture: Tensor, side: int, crop: float = 1.0, interpolation: str = "bicubic", mode: CropMode = "center"
) -> Tensor:
    """Resizes a picture by Pillow, then cuts out the central square.

    The pixels equal those of timm's transform for evaluation (``timm.data.create_transform``), and of torchvision's
    ``Resize`` and ``CenterCrop`` on Pillow images. Sizes are rounded as theirs are: at 64 pixels and a crop of 0.875
    the shorter side becomes 73 pixels, and the square starts at pixel 4. To cut out the square first and then resize it
    would shift the picture by half a pixel.

    Args:
        picture: uint8 ``[h, w, 3]`` on the CPU.
        side: of the square in pixels.
        crop: ``side`` as a part of the resized picture's shorter side, above 0 and at most 1.
        interpolation: Pillow's name of a filter in lower case, as timm writes it.
        mode: ``center`` keeps the aspect; ``squash`` resizes height and width to the same.

    Returns:
        uint8 ``[side, side, 3]``.
    """
    resized = floor(side / crop)
    if mode == "center":
        picture = _without_ends(picture)
        shorter = min(picture.shape[:2])
        height, width = (int(resized * length / shorter) for length in picture.shape[:2])
    else:
        height = width = resized
    image = Image.fromarray(picture.numpy())
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    left, top = round((width - side) / 2), round((height - side) / 2)
    return torch.from_numpy(np.array(image.crop((left, top, left + side, top + side))))


def _without_ends(picture: Tensor) -> Tensor:
    """The middle of a picture that is longer than ``LONGEST`` times its shorter side; any other as it is."""
    height, width = picture.shape[:2]
    shorter, longer = sorted((height, width))
    kept = LONGEST * shorter
    if longer <= kept:
        return picture
    kept += (longer - kept) % 2  # so that the middle stays the middle
    return picture.narrow(int(width > height), (longer - kept) // 2, kept).contiguous()
