"""A method of one's own, for one process: NNCLR (Dwibedi et al., ICCV 2021, arXiv 2104.14548) in one file.

    PYTHONPATH=examples hardviews pretrain --method own_method.nnclr.NNCLR --data shapes:256 --epochs 1

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
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class NNCLREncoding(NamedTuple):
    prediction: Tensor  # [V, B, D]
    projection: Tensor  # [V, B, D], without gradient


class NNCLR(Method[NNCLREncoding]):
    """Finds a view by the nearest neighbour that another view of the image has among those of earlier images.

    Args:
        backbone: images to features.
        plan: two kept views of one slot.
        dim: width of projections and predictions.
        hidden_dim: of projector and predictor.
        temperature: of the softmax.
        queue: number of earlier projections to choose neighbours from.
    """

    training_defaults = Training(optimizer="sgd", lr=0.06, weight_decay=1e-4)
    needs_whole_batch = True
    earlier: Tensor  # [queue, D], unit vectors: a buffer, so that it is saved and resumed

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 256,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
        queue: int = 4096,
    ) -> None:
        super().__init__(backbone, plan)
        self.projector = mlp([feature_dim(backbone), hidden_dim, dim], last_norm="affine")
        self.predictor = mlp([dim, hidden_dim, dim])
        self.temperature = temperature
        self.register_buffer("earlier", F.normalize(torch.randn(queue, dim), dim=1))

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
    ) -> NNCLREncoding:
        projection = [self.projector(self.backbone(view)) for view in views]
        prediction = [self.predictor(z) for z in projection]
        return NNCLREncoding(torch.stack(prediction), torch.stack(projection).detach())

    @outside_autocast
    def costs(self, encoding: NNCLREncoding) -> Costs:
        """``cross[t, v]``: the cross-entropy of finding an image's prediction of view v, among those of the batch, by
        the neighbour of its view t (equation 2)."""
        prediction = F.normalize(full_precision(encoding.prediction), dim=-1)
        projection = F.normalize(full_precision(encoding.projection), dim=-1)
        neighbour = self.earlier[(projection @ self.earlier.T).argmax(-1)]  # [T, B, D]
        logits = torch.einsum("tid,vjd->tvij", neighbour, prediction) / self.temperature
        return Costs(logits.logsumexp(-1) - logits.diagonal(dim1=2, dim2=3))  # [T, V, B]

    @torch.no_grad()
    def after_step(self, encoding: NNCLREncoding) -> None:
        """Puts the first view's projections into the queue: scoring changes nothing, only this method does."""
        newest = F.normalize(full_precision(encoding.projection[0]), dim=-1)
        self.earlier.copy_(torch.cat([newest, self.earlier])[: len(self.earlier)])
