"""Terms beside a method's own loss: KoLeo spreads a batch, Gram anchoring keeps the similarities of patches (DINOv2,
DINOv3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.networks.gather import gather, place


def koleo(features: Tensor) -> Tensor:
    """KoLeo (Sablayrolles et al., ICLR 2019, arXiv 1806.03198): minus the mean logarithm of the distance of this
    process's images from their nearest neighbours among the images of all processes, ``[T]``.

    Args:
        features: ``[T, B, D]``, not normalised; views are not compared with each other.
    """
    unit = F.normalize(features, dim=-1, eps=1e-8)
    everyone = gather(unit)  # [T, G, D]
    with torch.no_grad():
        similarity = unit @ everyone.mT  # [T, B, G]
        here = torch.arange(unit.shape[1], device=unit.device) + place()[0] * unit.shape[1]
        itself = here[:, None] == torch.arange(everyone.shape[1], device=unit.device)
        nearest = similarity.masked_fill(itself, -2.0).argmax(-1)
    neighbours = everyone.gather(1, nearest[..., None].expand_as(unit))
    # 1e-8 keeps both the logarithm and the root's gradient finite where two images have the same features.
    distance: Tensor = torch.linalg.vector_norm(unit - neighbours + 1e-8, dim=-1)
    return -(distance + 1e-8).log().mean(-1)


def gram(patches: Tensor, anchors: Tensor) -> Tensor:
    """The mean squared difference of the cosines between the patches of an image from those between its anchors,
    ``[T, B]``.

    Args:
        patches, anchors: ``[T, B, N, F]``, not normalised.
    """
    unit, fixed = F.normalize(patches, dim=-1), F.normalize(anchors, dim=-1)
    difference: Tensor = unit @ unit.mT - fixed @ fixed.mT
    return difference.square().mean((-2, -1))
