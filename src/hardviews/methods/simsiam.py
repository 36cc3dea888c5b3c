"""SimSiam: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021 (arXiv 2011.10566)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, full_precision, outside_autocast
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import mlp
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class SimSiamEncoding(NamedTuple):
    prediction: Tensor  # [V, B, D]
    projection: Tensor  # [V, B, D], without gradient


class SimSiam(Method[SimSiamEncoding]):
    """Predicts the projection of one view from another, without gradient through the projection.

    Args:
        backbone: images to features.
        plan: two or more kept views of one slot; every view predicts every other.
        dim: width of the projector and its output (2048 in the paper).
        predictor_dim: the predictor's bottleneck (512 in the paper).
        projector_layers: 3 in the paper, 2 for CIFAR.
    """

    training_defaults = Training(optimizer="sgd", lr=0.05, weight_decay=1e-4)
    constant_rate = ("predictor",)  # section 4.1: the predictor's rate is not decayed

    def __init__(
        self, backbone: nn.Module, plan: ViewPlan, dim: int = 2048, predictor_dim: int = 512, projector_layers: int = 3
    ) -> None:
        super().__init__(backbone, plan)
        self.projector = mlp([feature_dim(backbone), *[dim] * projector_layers], last_norm="plain")
        self.predictor = mlp([dim, predictor_dim, dim])

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.2, 1.0),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: float = 0.5,
        keep: int = 2,
    ) -> ViewPlan:
        """Section 4.1 of the paper: four views drawn, two kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a fraction of the image's.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels.
            keep: number of views kept, of twice as many drawn; 2 in the paper, 4 as in FastSiam.
        """
        if keep < 2:
            raise InputError(f"plan.keep: a pair needs two views, not {keep}")
        photometric = Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur_p)
        return ViewPlan((Slot("view", size, scale, draw=2 * keep, keep=keep, photometric=photometric),))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> SimSiamEncoding:
        # One view at a time, so that BN statistics are those of one view, as in the paper's code.
        projections = [self.projector(self.backbone(view)) for view in views]
        predictions = [self.predictor(projection) for projection in projections]
        return SimSiamEncoding(torch.stack(predictions), torch.stack(projections).detach())

    @outside_autocast
    def costs(self, encoding: SimSiamEncoding) -> Costs:
        """``cross[t, v] = -cos(prediction_v, projection_t)`` (equation 1); a pair's total is equation 2."""
        prediction = F.normalize(full_precision(encoding.prediction), dim=-1)
        target = F.normalize(full_precision(encoding.projection), dim=-1)
        return Costs(-torch.einsum("tbd,vbd->tvb", target, prediction))

    def statistics(self, encoding: SimSiamEncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}
