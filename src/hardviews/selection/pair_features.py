"""What two views of an image have to do with each other, in numbers: the features that costs are predicted from.

Features are symmetric in the two views, shifted and scaled by constants to about -1..1, and finite. P pairs.
"""

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.boxes import iou, overlap, relative_distance
from hardviews.views.draw import Views

NUMBERS, PIXELS = 25, 10  # features of a pair of either kind
TONES = 8  # further numbers, of views whose channels change one by one
SIDE = 8  # of the small pictures
LEAST = 1e-3  # of a contrast that is divided by


def numbers_of(views: Views) -> int:
    """How many features ``number_features`` has of these views."""
    return NUMBERS + (0 if views.tone is None else TONES)


def number_features(views: Views, a: Tensor, b: Tensor) -> Tensor:
    """Of the views as numbers, float32 ``[P, B, numbers_of(views)]``: overlap, distance and size of the boxes, colours,
    blur, and if the plan has them, gain, offset, gamma and dropped channels.

    Args:
        views: the V candidates.
        a, b: int64 ``[P]``, the candidates of every pair, on the device of ``views``.
    """
    box = views.box
    width, height = box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]
    area, ratio = (width * height).clamp_min(1e-6).log().float(), (width / height).log().float()
    brightness, contrast, saturation = (views.jitter[..., :3] - 1).unbind(-1)
    hue = views.jitter[..., 3]
    flip, grey, solarize = views.flip.float(), views.grey.float(), views.solarize.float()
    first, second = box[a], box[b]
    hidden = torch.zeros_like(flip) if views.mask is None else views.mask.float().mean((2, 3))

    def apart(x: Tensor) -> Tensor:
        return (x[a] - x[b]).abs()

    def both(x: Tensor) -> Tensor:
        return x[a] + x[b]

    features = [
        2 * iou(first, second).float() - 1,
        2 * overlap(first, second).float() - 1,
        # In units of the image, then of the boxes, which grows without bound where these are small.
        2 * (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).norm(dim=-1).float() - 1,
        relative_distance(first, second).float().clamp(max=4) - 0.5,
        apart(area) - 0.5,
        torch.minimum(area[a], area[b]) / 2 + 0.5,
        torch.maximum(area[a], area[b]) + 0.5,
        4 * apart(ratio) - 1,
        apart(flip) - 0.5,
        *(2 * apart(x) - 0.5 for x in (brightness, contrast, saturation)),
        4 * apart(hue) - 0.5,
        *(both(x) for x in (brightness, contrast, saturation)),
        *(torch.minimum(x[a], x[b]) for x in (brightness, contrast)),
        4 * both(hue.abs()) - 0.5,
        apart(grey) - 0.5,
        grey[a] * grey[b],
        apart(views.blur) - 0.5,
        both(views.blur) - 1,
        apart(solarize) - 0.5,
        both(hidden) - 0.5,
        *([] if views.tone is None else _tone_features(views.tone, a, b)),
    ]
    return torch.stack(features, -1).clamp(-8, 8)


def _tone_features(tone: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """``TONES`` features ``[P, B]`` of gain, offset, gamma and dropped channels ``[V, B, C, 4]``."""
    gain, offset, gamma, dropped = tone.unbind(-1)  # [V, B, C] each
    power = gamma[..., 0].log()  # which all channels share
    level, gone = gain.mean(-1), dropped.mean(-1)

    def apart(x: Tensor) -> Tensor:
        return (x[a] - x[b]).abs().mean(-1)

    return [
        2 * apart(gain) - 0.5,
        4 * apart(offset) - 0.5,
        2 * (power[a] - power[b]).abs() - 0.5,
        level[a] + level[b] - 2,
        power[a] + power[b],
        2 * apart(dropped) - 0.5,
        gone[a] + gone[b] - 0.5,
        2 * torch.maximum(dropped[a], dropped[b]).mean(-1) - 0.5,
    ]


def pixel_features(candidates: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Of the views as pixels, float32 ``[P, B, PIXELS]``: how small pictures of 8 x 8 differ in colour, contrast and
    edges, whatever pixels are normalised by.

    Args:
        candidates: V tensors ``[B, C, h, w]``, each with its own size.
        a, b: as of ``number_features``.

    Raises:
        InputError: the candidates are no pictures.
    """
    small = thumbnails(candidates)
    # Colours are those of the image's own candidates on average, so that no feature hangs on how pixels are normalised.
    small = small - small.mean((0, 2, 3, 4), keepdim=True)
    small = small / small.square().mean((0, 2, 3, 4), keepdim=True).sqrt().clamp_min(LEAST)
    colour = small.mean((3, 4))  # [V, B, C]
    grey = small.mean(2)
    contrast, edges = contrast_of(grey), edges_of(grey)
    relief = (grey - grey.mean((2, 3), keepdim=True)) / contrast.clamp_min(LEAST)[..., None, None]

    def alike(left: Tensor, right: Tensor) -> Tensor:
        return (left * right).mean((2, 3))

    features = [
        (small[a] - small[b]).square().mean((2, 3, 4)).sqrt() - 1,
        (colour[a] - colour[b]).square().mean(-1).sqrt() - 0.5,
        alike(relief[a], relief[b]),
        alike(relief[a], relief.flip(-1)[b]),
        (contrast[a] - contrast[b]).abs() - 0.5,
        torch.minimum(contrast[a], contrast[b]) - 0.5,
        torch.maximum(contrast[a], contrast[b]) - 1,
        (edges[a] - edges[b]).abs() - 0.5,
        torch.minimum(edges[a], edges[b]) - 0.5,
        torch.maximum(edges[a], edges[b]) - 0.5,
    ]
    return torch.stack(features, -1).clamp(-8, 8)


def thumbnails(candidates: list[Tensor]) -> Tensor:
    """The means of 8 x 8 parts of every candidate ``[B, C, h, w]``, float32 ``[V, B, C, 8, 8]``.

    Raises:
        InputError: the candidates are no pictures.
    """
    wrong = next((view for view in candidates if view.ndim != 4 or not view.is_floating_point()), None)
    if wrong is not None:
        raise InputError(
            f"candidates of shape {list(wrong.shape)} are not pictures [B, C, h, w] of floating-point numbers; "
            "pass the drawn views to choose(), or take another policy"
        )
    return torch.stack([torch.nn.functional.adaptive_avg_pool2d(view.float(), SIDE) for view in candidates])


def contrast_of(grey: Tensor) -> Tensor:
    """The standard deviation of grey pictures ``[V, B, h, w]``, ``[V, B]``."""
    return (grey - grey.mean((2, 3), keepdim=True)).square().mean((2, 3)).sqrt()


def edges_of(grey: Tensor) -> Tensor:
    """How much neighbouring pixels of grey pictures ``[V, B, h, w]`` differ, ``[V, B]``."""
    return grey.diff(dim=3).abs().mean((2, 3)) + grey.diff(dim=2).abs().mean((2, 3))


def with_products(x: Tensor) -> Tensor:
    """Features ``[..., F]`` with all their squares and products, ``[..., F + F (F + 1) / 2]``."""
    count = x.shape[-1]
    rows = [x[..., i : i + 1] * x[..., i:] for i in range(count)]
    return torch.cat([x, *rows], -1)


def width(count: int) -> int:
    """The number of features that ``with_products`` makes of ``count``."""
    return count + count * (count + 1) // 2
