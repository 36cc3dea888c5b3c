"""The one view that evaluation looks at: the central square, no chance involved."""

import torch
from torch import Tensor

from hardviews.views.draw import Views
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Slot, ViewPlan


def centre_plan(
    image_size: int,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    interpolation: Interpolation = "bicubic",
    multiple: int = 1,
) -> ViewPlan:
    """The plan of one plain view, for ``render(images, centre_views(images.size), plan)[0]``."""
    slot = Slot("centre", image_size, scale=(1, 1), interpolation=interpolation, draw=1, keep=1, flip_p=0)
    return ViewPlan((slot,), mean, std, multiple=multiple)


def centre_views(size: Tensor, crop: float = 1.0) -> Views:
    """The central square of every image, as V = 1 view.

    Rendered at n pixels it shows what resizing the shorter side to n / crop and cutting out the central n × n shows, up
    to a pixel's rounding of the square and to the outermost pixels, which take no colour from outside it.

    Args:
        size: int64 ``[B, 2]`` on the CPU, height and width (``ImageBatch.size``).
        crop: side of the square as a part of the shorter side; 0.875 is the custom on ImageNet (224 of 256).
    """
    extent = size.flip(1).double()  # width and height: x before y, as in boxes
    side = (extent.amin(1, keepdim=True) * crop).round().clamp_min(1)
    start = ((extent - side) / 2).floor()
    box = torch.cat([start / extent, (start + side) / extent], 1)
    batch = len(size)
    no = torch.zeros(1, batch, dtype=torch.bool)
    return Views(
        slot=torch.zeros(1, dtype=torch.int64),
        box=box[None],
        flip=no,
        jitter=torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(1, batch, 4),
        order=torch.arange(4).expand(1, batch, 4),
        grey=no,
        blur=torch.zeros(1, batch),
        solarize=no,
        ticket=torch.zeros(1, batch),
    )
