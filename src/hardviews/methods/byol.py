"""BYOL: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020 (arXiv 2006.07733)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, full_precision, outside_autocast
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import mlp
from hardviews.networks.teacher import Teacher, check_momentum, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class BYOLEncoding(NamedTuple):
    prediction: Tensor  # [V, B, D]
    projection: Tensor  # [T, B, D], the teacher's, without gradient


class BYOLTeacher(Teacher):
    backbone: nn.Module
    projector: nn.Module


class BYOL(Method[BYOLEncoding]):
    """Predicts a momentum teacher's projection of one view from the other view.

    Args:
        backbone: images to features.
        plan: one kept view of each of two slots.
        dim: width of the projection (256 in the paper).
        hidden_dim: width of projector and predictor (4096 in the paper).
        teacher_momentum: at the start; it rises to 1 along a half cosine (0.99 for 300 epochs, 0.996 for 1000).
    """

    training_defaults = Training(
        optimizer="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10.0, decay_bias_and_norm=False
    )

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 256,
        hidden_dim: int = 4096,
        teacher_momentum: float = 0.99,
    ) -> None:
        super().__init__(backbone, plan)
        self.projector = mlp([feature_dim(backbone), hidden_dim, dim])
        self.predictor = mlp([dim, hidden_dim, dim])
        self.teacher = BYOLTeacher(backbone=backbone, projector=self.projector)
        check_momentum(teacher_momentum)
        self.teacher_momentum = teacher_momentum

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: tuple[float, float] = (1.0, 0.1),
        solarize_p: float = 0.2,
    ) -> ViewPlan:
        """Appendix B of the paper: two kinds of view; two of each are drawn and one is kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a fraction of the image's.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels, for each kind.
            solarize_p: probability that a view of the second kind is solarized.
        """
        looks = [
            Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur, solarize_p=solarize)
            for blur, solarize in zip(blur_p, (0.0, solarize_p), strict=True)
        ]
        kinds = zip(("A", "B"), looks, strict=True)
        return ViewPlan(
            tuple(
                Slot(name, size, scale, interpolation="bicubic", draw=2, keep=1, photometric=look)
                for name, look in kinds
            )
        )

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> BYOLEncoding:
        # One view at a time, so that BN statistics are those of one view, as in the paper's code.
        prediction = torch.stack([self.predictor(self.projector(self.backbone(view))) for view in views])
        if targets is not None:
            return BYOLEncoding(prediction, targets.fields[0])
        with torch.no_grad():
            projection = torch.stack([self.teacher.projector(self.teacher.backbone(view)) for view in views])
        return BYOLEncoding(prediction, projection)

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        projection = torch.stack([self.teacher.projector(self.teacher.backbone(view)) for view in views])
        encoding = BYOLEncoding(projection, projection)
        return self.costs(encoding), self.reusable(encoding)

    @outside_autocast
    def costs(self, encoding: BYOLEncoding) -> Costs:
        """``cross[t, v] = 2 (2 - 2 cos(prediction_v, projection_t))``: a pair's total is the sum of equation 2 in both
        directions, as in the paper."""
        prediction = F.normalize(full_precision(encoding.prediction), dim=-1)
        target = F.normalize(full_precision(encoding.projection), dim=-1)
        return Costs(4 - 4 * torch.einsum("tbd,vbd->tvb", target, prediction))

    def reusable(self, encoding: BYOLEncoding) -> TargetEncoding | None:
        return None if self.teacher.uses_batch_statistics() else TargetEncoding((encoding.projection,))

    def after_step(self, encoding: BYOLEncoding) -> None:
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.projector], momentum)

    def statistics(self, encoding: BYOLEncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}
