"""Geometry of crop boxes: overlap and distance. Boxes are x0, y0, x1, y1 with positive area, in any unit per axis.

Stretching an axis changes no result, so boxes in 0..1 of a non-square image give the same numbers as boxes in pixels.
"""

import torch
from torch import Tensor


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0..1, of boxes ``[..., 4]`` that broadcast against each other."""
    shared = _intersection(a, b)
    return shared / (_area(a) + _area(b) - shared)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over the smaller area, 0..1, of boxes ``[..., 4]``: 1 where one box lies within the other."""
    return _intersection(a, b) / torch.minimum(_area(a), _area(b))


def relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance between the centres of boxes ``[..., 4]``, 0 and up.

    Each axis is measured in units of the two boxes' mean side; the result is the root mean square of the two axes. For
    squares of one size this is distance over diagonal. At 1, two boxes of the same shape touch at a corner.
    """
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    sides = (a[..., 2:] - a[..., :2] + b[..., 2:] - b[..., :2]) / 2
    return (centres / sides).square().mean(-1).sqrt()


def pairwise_iou(box: Tensor) -> Tensor:
    """IoU of every two views of an image: boxes ``[V, B, 4]`` to ``[V, V, B]``, with ones on the diagonal."""
    return iou(box[:, None], box[None])


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp_min(0).prod(-1)


def _area(box: Tensor) -> Tensor:
    return (box[..., 2:] - box[..., :2]).prod(-1)
