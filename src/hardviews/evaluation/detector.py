"""torchvision's Faster R-CNN and Mask R-CNN on any backbone.

Ren et al., "Faster R-CNN", NeurIPS 2015 (arXiv 1506.01497); He et al., "Mask R-CNN", ICCV 2017 (arXiv 1703.06870).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from hardviews.data.labelled.scenes import Scene
from hardviews.evaluation.features import Preprocessing
from hardviews.evaluation.pyramid import LEVELS, Pyramid

SHAPES = (0.5, 1.0, 2.0)  # height / width of anchors
ANCHOR = 8  # side of an anchor in strides of its level: 32 pixels at stride 4, as in Lin et al. (2017), section 4.1


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """One anchor size and three shapes per cell.

    torchvision computes strides by integer division, which is wrong if a stride is fractional or the last level is
    rounded up; here the strides are given.
    """

    def __init__(self, strides: list[float]) -> None:
        super().__init__(tuple((ANCHOR * stride,) for stride in strides), (SHAPES,) * len(strides))
        self.strides = strides

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        exact = [[torch.tensor(stride)] * 2 for stride in self.strides]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, exact)
        return anchors


def pooler(strides: list[float], side: int) -> MultiScaleRoIAlign:
    """Crops a region's features from its level, ``side`` by ``side`` cells.

    torchvision estimates the strides from the first batch's unpadded sizes, which fails for small pictures; here they
    are given.
    """
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    low = round(float(torch.tensor(strides[0]).log2()))
    # a region of 224 pixels belongs to level 4, of stride 16: equation 1 of Lin et al. (2017)
    pool.map_levels = initLevelMapper(low, low + len(strides) - 1, canonical_scale=224, canonical_level=4)
    return pool


class InFloat32(nn.Module):
    """A head with float32 outputs: in bf16, torchvision would decode boxes to the nearest eight pixels."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *inputs: Any) -> Any:
        return _float(self.head(*inputs))


def _float(outputs: Any) -> Any:
    return outputs.float() if isinstance(outputs, Tensor) else type(outputs)(_float(part) for part in outputs)


def detector(
    pyramid: Pyramid, categories: int, masks: bool, preprocessing: Preprocessing, min_size: int, max_size: int
) -> nn.Module:
    """Builds a detector; the global generator initialises its heads.

    Args:
        pyramid: of the backbone; sets the heads' width.
        categories: number of categories without the background.
        masks: Mask R-CNN instead of Faster R-CNN.
        preprocessing: gives mean and std.
        min_size, max_size: pictures are resized so that the shorter side is ``min_size``, or the longer ``max_size`` if
            it would exceed that.

        Returns:
        A module that takes float pictures ``[3, h, w]`` in 0..1 of any sizes, and targets when training; it returns
        losses, or detections in pixels of those pictures.
    """
    width = pyramid.out_channels
    strides = pyramid.strides[:-1]  # regions are read from all levels except the pooled one
    keywords: dict[str, Any] = {
        "min_size": min_size,
        "max_size": max_size,
        "image_mean": preprocessing.mean,
        "image_std": preprocessing.std,
        "size_divisible": pyramid.multiple,
        "rpn_anchor_generator": Anchors(pyramid.strides),
        "box_roi_pool": pooler(strides, 7),
        "box_head": TwoMLPHead(width * 7 * 7, 4 * width),
        "box_predictor": InFloat32(FastRCNNPredictor(4 * width, categories + 1)),
    }
    if masks:
        keywords |= {
            "mask_roi_pool": pooler(strides, 14),
            "mask_head": MaskRCNNHeads(width, (width,) * LEVELS, 1),
            "mask_predictor": InFloat32(MaskRCNNPredictor(width, width, categories + 1)),
        }
    network: nn.Module = (MaskRCNN if masks else FasterRCNN)(pyramid, **keywords)
    rpn: Any = network.rpn
    rpn.head = InFloat32(rpn.head)
    return network


def target(scene: Scene, flip: bool, masks: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture and its targets in the form of torchvision's detectors; ``flip`` mirrors both."""
    image = scene.image.permute(2, 0, 1).float() / 255
    boxes, parts = scene.boxes, scene.masks
    if flip:
        image = image.flip(-1)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0]) * image.shape[-1]
        parts = None if parts is None else parts.flip(-1)
    found = {"boxes": boxes, "labels": scene.labels}
    return image, found | {"masks": parts.byte()} if masks and parts is not None else found
