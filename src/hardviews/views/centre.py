"""The evaluation crop: the central square of the resized picture, computed as timm and torchvision do."""

from math import floor
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardviews.views.pixels import RGB, Pixels

CropMode = Literal["center", "squash"]  # timm's words
CROP_MODES = get_args(CropMode)

# Ends of a picture longer than this many times its shorter side are cut off before the resize: resizing a whole strip
# of 1 by a million pixels would exhaust the memory.
LONGEST = 64


def central_square(
    picture: Tensor,
    side: int,
    crop: float = 1.0,
    interpolation: str = "bicubic",
    mode: CropMode = "center",
    form: Pixels = RGB,
) -> Tensor:
    """Resizes a picture with Pillow, then cuts out the central square.

    The pixels equal those of timm's evaluation transform (``timm.data.create_transform``) and of torchvision's
    ``Resize`` and ``CenterCrop`` on Pillow images, and sizes are rounded the same way: for 64 pixels and a crop of
    0.875 the shorter side becomes 73 pixels, and the square starts at pixel 4. Cutting first and resizing afterwards
    would shift the picture by half a pixel.

    Of 8-bit RGB and grey, Pillow resizes bytes. Of others, it resizes the levels of each channel as 32-bit floats, and
    where a filter overshoots, the result is cut to 0..255.

    Args:
        picture: ``[h, w, C]`` on the CPU, as stored.
        side: side of the square in pixels.
        crop: ``side`` as a fraction of the resized picture's shorter side, above 0 and at most 1.
        interpolation: Pillow's name of a filter in lower case, as timm writes it.
        mode: ``center`` keeps the aspect ratio; ``squash`` resizes height and width to the same length.
        form: channels, type and range of values of the picture.

    Returns:
        ``[side, side, C]``, levels 0 to 255 of the type that ``form_of_square`` says.
    """
    resized = floor(side / crop)
    if mode == "center":
        picture = _without_ends(picture)
        shorter = min(picture.shape[:2])
        height, width = (int(resized * length / shorter) for length in picture.shape[:2])
    else:
        height = width = resized
    left, top = round((width - side) / 2), round((height - side) / 2)

    def square(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        image = Image.fromarray(pixels)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling[interpolation.upper()])
        return np.array(image.crop((left, top, left + side, top + side)))

    if not by_bytes(form):
        levels = form.levels(picture).permute(2, 0, 1).contiguous().numpy()
        return torch.from_numpy(np.stack([square(channel) for channel in levels], -1)).clamp_(0, 255)
    if form.channels == 1:
        return torch.from_numpy(square(picture[..., 0].numpy())[..., None])
    return torch.from_numpy(square(picture.numpy()))


def by_bytes(form: Pixels) -> bool:
    """Whether pictures are resized as they are stored, as 8-bit RGB or grey."""
    return form.plain and form.channels in (1, 3)


def form_of_square(form: Pixels) -> Pixels:
    """What ``central_square`` returns of pictures: themselves, or float32 levels 0 to 255."""
    return form if by_bytes(form) else Pixels(form.channels, "float32", (0.0,), (255.0,), form.rgb)


def _without_ends(picture: Tensor) -> Tensor:
    """Cuts a picture longer than ``LONGEST`` times its shorter side down to its middle; returns others unchanged."""
    height, width = picture.shape[:2]
    shorter, longer = sorted((height, width))
    kept = LONGEST * shorter
    if longer <= kept:
        return picture
    kept += (longer - kept) % 2  # so that the middle stays the middle
    return picture.narrow(int(width > height), (longer - kept) // 2, kept).contiguous()
