"""A method of one's own, for one process: MoCo v3 (Chen, Xie, He, ICCV 2021, arXiv 2104.02057) in one file.

    PYTHONPATH=examples hardviews pretrain --method own_method.mocov3.MoCoV3 --data shapes:256 --epochs 1

Any class of an importable package will do. Its arguments are ``--method.X``, those of ``default_plan`` ``--plan.X``,
and it is trained on hard views without a word about them here.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.methods.base import Method, TargetEncoding, Training, full_precision, outside_autocast
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import mlp
from hardviews.networks.teacher import Teacher, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class MoCoEncoding(NamedTuple):
    query: Tensor  # [V, B, D]
    key: Tensor  # [T, B, D], the teacher's, without gradient


class MoCoTeacher(Teacher):
    backbone: nn.Module
    projector: nn.Module


class MoCoV3(Method[MoCoEncoding]):
    """Finds a momentum teacher's key of the same image among those of the batch.

    Args:
        backbone: images to features.
        plan: two kept views of one slot.
        dim: width of queries and keys.
        hidden_dim: of projector and predictor.
        temperature: of the softmax.
        teacher_momentum: at the start; it grows to 1.
    """

    training_defaults = Training(optimizer="sgd", lr=0.06, weight_decay=1e-4)
    needs_whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 256,
        hidden_dim: int = 4096,
        temperature: float = 0.2,
        teacher_momentum: float = 0.99,
    ) -> None:
        super().__init__(backbone, plan)
        self.projector = mlp([feature_dim(backbone), hidden_dim, dim], last_norm="plain")
        self.predictor = mlp([dim, hidden_dim, dim], last_norm="plain")
        self.teacher = MoCoTeacher(backbone=backbone, projector=self.projector)
        self.temperature, self.teacher_momentum = temperature, teacher_momentum

    @staticmethod
    def default_plan(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> ViewPlan:
        """Four views drawn, two kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a part of the image's.
        """
        return ViewPlan((Slot("view", size, scale, photometric=Photometric(0.4, 0.4, 0.2, 0.1, grey_p=0.2)),))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> MoCoEncoding:
        query = torch.stack([self.predictor(self.projector(self.backbone(view))) for view in views])
        with torch.no_grad():
            key = torch.stack([self.teacher.projector(self.teacher.backbone(view)) for view in views])
        return MoCoEncoding(query, key)

    @outside_autocast
    def costs(self, encoding: MoCoEncoding) -> Costs:
        """``cross[t, v]``: the cross-entropy of finding an image's key of view t by its query of view v (algorithm
        1)."""
        query = F.normalize(full_precision(encoding.query), dim=-1)
        key = F.normalize(full_precision(encoding.key), dim=-1)
        logits = torch.einsum("vid,tjd->tvij", query, key) / self.temperature
        cross = logits.logsumexp(-1) - logits.diagonal(dim1=2, dim2=3)  # [T, V, B]
        return Costs(4 * self.temperature * cross)  # the paper sums both ways, each scaled by 2 T

    def after_step(self, encoding: MoCoEncoding) -> None:
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.projector], momentum)
