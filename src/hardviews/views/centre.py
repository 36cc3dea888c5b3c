"""The evaluation crop: the central square of the resized picture, computed as timm and torchvision do."""

from math import floor
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CropMode = Literal["center", "squash"]  # timm's words
CROP_MODES = get_args(CropMode)

# Ends of a picture longer than this many times its shorter side are cut off before the resize: resizing a whole strip
# of 1 by a million pixels would exhaust the memory.
LONGEST = 64


def central_square(
    picture: Tensor, side: int, crop: float = 1.0, interpolation: str = "bicubic", mode: CropMode = "center"
) -> Tensor:
    """Resizes a picture with Pillow, then cuts out the central square.

    The pixels equal those of timm's evaluation transform (``timm.data.create_transform``) and of torchvision's
    ``Resize`` and ``CenterCrop`` on Pillow images, and sizes are rounded the same way: for 64 pixels and a crop of
    0.875 the shorter side becomes 73 pixels, and the square starts at pixel 4. Cutting first and resizing afterwards
    would shift the picture by half a pixel.

    Args:
        picture: uint8 ``[h, w, 3]`` on the CPU.
        side: side of the square in pixels.
        crop: ``side`` as a fraction of the resized picture's shorter side, above 0 and at most 1.
        interpolation: Pillow's name of a filter in lower case, as timm writes it.
        mode: ``center`` keeps the aspect ratio; ``squash`` resizes height and width to the same length.

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
    """Cuts a picture longer than ``LONGEST`` times its shorter side down to its middle; returns others unchanged."""
    height, width = picture.shape[:2]
    shorter, longer = sorted((height, width))
    kept = LONGEST * shorter
    if longer <= kept:
        return picture
    kept += (longer - kept) % 2  # so that the middle stays the middle
    return picture.narrow(int(width > height), (longer - kept) // 2, kept).contiguous()
