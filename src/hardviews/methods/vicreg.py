"""VICReg: Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning", ICLR 2022 (arXiv 2105.04906)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import (
    Method,
    TargetEncoding,
    Training,
    feature_std,
    full_precision,
    outside_autocast,
    squared_distances,
)
from hardviews.networks.backbones import feature_dim
from hardviews.networks.gather import gather
from hardviews.networks.heads import mlp
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan

EPSILON = 1e-4  # under the root of a variance


class VICRegEncoding(NamedTuple):
    projection: Tensor  # [V, B, D]


class VICReg(Method[VICRegEncoding]):
    """Draws two views of an image together, while over the images every dimension of each view keeps its variance, and
    no two of them correlate.

    With views z and z' of D dimensions, N images, and C the covariance matrix of one view over images, the loss is::

        invariance · mean over images and d of (z - z')²                                             per image
        + variance / 2 · [mean over d of max(0, 1 - sqrt(C_dd + ε)), of z and of z']                 of the batch
        + covariance · [1/D · sum over d != e of C_de², of z and of z']                              of the batch

    (equations 1 to 6 with the factors of the authors' code: the first term averages over dimensions and the second over
    both views). The first term is what a choice of views costs. The others depend on all images of all processes, and
    are computed of the kept views alone; for more than two views they are twice their mean over views.

    Args:
        backbone: images to features.
        plan: two kept views of one slot.
        dim: width of the embedding (8192 in the paper).
        hidden_dim: width of the two hidden layers (8192 in the paper).
        invariance: weight of the first term (25 in the paper).
        variance: weight of the second (25).
        covariance: weight of the third (1).
    """

    training_defaults = Training(
        optimizer="lars", lr=0.2, weight_decay=1e-6, min_lr=0.002, warmup_epochs=10.0, decay_bias_and_norm=False
    )
    needs_whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 8192,
        hidden_dim: int = 8192,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(backbone, plan)
        if min(invariance, variance, covariance) < 0:
            given = f"method.invariance {invariance}, variance {variance} and covariance {covariance}"
            raise InputError(f"{given} must be at least 0")
        if dim < 1:
            raise InputError(f"method.dim must be at least 1, got {dim}")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        # The last layer has no bias, since no term depends on the mean.
        self.projector = nn.Sequential(
            mlp([feature_dim(backbone), hidden_dim, hidden_dim], last_norm="affine"),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, dim, bias=False),
        )

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: float = 0.5,
        solarize_p: float = 0.1,
    ) -> ViewPlan:
        """Appendix C of the paper, where both views are augmented alike: four views drawn, two kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a fraction of the image's.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels.
            solarize_p: probability that a view is solarized.
        """
        look = Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur_p, solarize_p=solarize_p)
        return ViewPlan((Slot("view", size, scale, interpolation="bicubic", photometric=look),))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> VICRegEncoding:
        # One view at a time, so that BN statistics are those of one view, as in the paper's code.
        return VICRegEncoding(torch.stack([self.projector(self.backbone(view)) for view in views]))

    @outside_autocast
    def costs(self, encoding: VICRegEncoding) -> Costs:
        """``cross[t, v] = invariance · mean over d of (z_t - z_v)²`` (equation 5)."""
        projection = full_precision(encoding.projection)
        return Costs(self.invariance * squared_distances(projection, len(projection)))

    @outside_autocast
    def loss(self, encoding: VICRegEncoding) -> Tensor:
        """The mean total of ``costs``, plus the terms of variance and covariance (equations 1 to 4).

        Raises:
            InputError: the batch has one image, of which there is no variance.
        """
        everyone = gather(full_precision(encoding.projection))  # [V, N, D]
        images, dim = everyone.shape[1:]
        if images < 2:
            raise InputError(
                "VICReg needs the variance over images, and this batch has one; give a larger --batch-size"
            )
        centred = everyone - everyone.mean(1, keepdim=True)
        variance = centred.square().sum(1) / (images - 1)  # [V, D]
        hinge = (1 - (variance + EPSILON).sqrt()).relu().mean()
        # Products of images [V, N, N] and of dimensions [V, D, D] have the same sum of squares: take the smaller.
        products = (centred @ centred.mT if images < dim else centred.mT @ centred) / (images - 1)
        off_diagonal = products.square().sum((1, 2)) - variance.square().sum(1)
        return super().loss(encoding) + self.variance * hinge + self.covariance * 2 * off_diagonal.mean() / dim

    def statistics(self, encoding: VICRegEncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}
