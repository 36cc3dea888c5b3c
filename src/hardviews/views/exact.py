"""The exact colour mode: applies torchvision's own functions to one view at a time. Exact, but slow."""

import torch
import torchvision.transforms.v2.functional as V
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan
from hardviews.views.resampling import kernel_at
from hardviews.views.tone import toned


def _brightness(pixels: Tensor, factor: float) -> Tensor:
    return (factor * pixels).clamp_(0, 1)


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    return pixels.mean((1, 2), keepdim=True).lerp(pixels, factor).clamp_(0, 1)


JITTER = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue)
JITTER_OF_CHANNELS = (_brightness, _contrast)  # torchvision's take one channel or RGB
INTERPOLATION = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def exact_view(image: Tensor, views: Views, v: int, b: int, plan: ViewPlan, side: int) -> Tensor:
    """View v of image b: crop and resize, flip, jitter, grey, blur, solarize, tone; not normalised.

    Args:
        image: levels 0..255, float32 ``[C, H, W]``.
        views: on the CPU, so that reading a number never waits.
        plan: that the views were drawn from.
        side: side of the view in pixels; the blur scales with it if it differs from the slot's size.

    Returns:
        float32 ``[C, side, side]`` in 0..1.
    """
    slot = plan.slots[int(views.slot[v])]
    height, width = image.shape[1:]
    x0, y0, x1, y1 = views.box[v, b].tolist()
    left, top, right, bottom = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
    pixels: Tensor = V.resized_crop(
        image / 255,
        top,
        left,
        bottom - top,
        right - left,
        [side, side],
        INTERPOLATION[slot.interpolation],
        True,
    )
    pixels = pixels.clamp_(0, 1)  # bicubic overshoots; code for 8-bit pixels clamps here too
    if views.flip[v, b]:
        pixels = V.horizontal_flip(pixels)
    jitter = views.jitter[v, b].tolist()
    for step in views.order[v, b].tolist():
        if jitter[step] != (0.0 if step == 3 else 1.0):
            pixels = (JITTER if plan.rgb else JITTER_OF_CHANNELS)[step](pixels, jitter[step])
    if views.grey[v, b]:
        pixels = V.rgb_to_grayscale(pixels, num_output_channels=3)
    sigma = views.blur[v, b].item() * side / slot.size
    if sigma > 0:
        kernel = kernel_at(slot.photometric.blur_kernel, slot.size, side)
        pixels = V.gaussian_blur(pixels, [kernel, kernel], [sigma, sigma])
    if views.solarize[v, b]:
        pixels = V.solarize(pixels, slot.photometric.solarize_threshold)
    if views.tone is not None:
        mean = torch.tensor(plan.mean)[:, None]
        pixels = toned(pixels.flatten(1), views.tone[v, b, :, None], mean).view_as(pixels)
    return pixels
