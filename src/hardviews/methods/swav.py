"""SwAV: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020
(arXiv 2006.09882)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, full_precision, outside_autocast
from hardviews.methods.dino import encode
from hardviews.networks.assignment import all_pairs
from hardviews.networks.backbones import feature_dim
from hardviews.networks.gather import gather, place
from hardviews.networks.heads import Prototypes, mlp
from hardviews.networks.sinkhorn import sinkhorn
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class SwAVEncoding(NamedTuple):
    projection: Tensor  # [V, B, D], not normalised


class SwAV(Method[SwAVEncoding]):
    """From every view, predicts the prototypes that another, global view is assigned to. The assignments, called codes,
    share the images of the batch equally among the prototypes, so that not all get the same.

    Codes come from one view at a time, by Sinkhorn-Knopp over this view of the images of all processes, and of the
    queue. So a candidate's code depends on the same view of other images, not on the image's other candidates; the
    codes of kept views are computed again from the kept views, by the same formula.

    Args:
        backbone: images to features.
        plan: global views, which are targets, and local views.
        dim: width of the embedding (128 in the paper).
        hidden_dim: width of the projector (2048 in the paper for a ResNet-50).
        prototypes: 3000 in the paper.
        temperature: of the softmax of predictions.
        epsilon: temperature of the codes (0.05 in the paper); lower ones prevent a collapse at the beginning.
        iterations: of Sinkhorn-Knopp.
        freeze_prototypes: number of first epochs in which the prototypes are not trained.
        queue: number of embeddings of earlier images that take part in the codes, for small batches (3840 in the
            paper); 0 for none. They are of the first kept view, on all processes together.
        queue_from: epoch from which the queue is used (15 in the paper).
    """

    training_defaults = Training(optimizer="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10.0)
    needs_whole_batch = True
    embeddings: Tensor  # [queue, D], unit vectors, the newest first

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 128,
        hidden_dim: int = 2048,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        freeze_prototypes: int = 1,
        queue: int = 0,
        queue_from: int = 15,
    ) -> None:
        super().__init__(backbone, plan)
        if min(temperature, epsilon) <= 0:
            raise InputError(f"method.temperature {temperature} and epsilon {epsilon} must be above 0")
        if min(prototypes, iterations) < 1:
            raise InputError(f"method.prototypes {prototypes} and iterations {iterations} must be at least 1")
        if min(freeze_prototypes, queue, queue_from) < 0:
            given = f"freeze_prototypes {freeze_prototypes}, queue {queue}, queue_from {queue_from}"
            raise InputError(f"method.{given}: each must be at least 0")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.freeze_prototypes, self.queue_from = freeze_prototypes, queue_from
        self.projector = mlp([feature_dim(backbone), hidden_dim, dim])
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=1))
        self.register_buffer("embeddings", torch.zeros(queue, dim))

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.14),
        local_size: int | None = None,
        locals: int = 6,
        strength: float = 1.0,
        grey_p: float = 0.2,
        blur_p: float = 0.5,
    ) -> ViewPlan:
        """Section 3.2 and appendix A of the paper; draws twice as many candidates as it keeps of two global views and
        six local ones.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a fraction of the image's.
            local_scale: the same for local crops.
            local_size: side of a local view in pixels; by default 96 for 224, and in proportion.
            locals: number of local views kept.
            strength: of the colour jitter, multiplies (0.8, 0.8, 0.8, 0.2); 0.5 for CIFAR.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels; 0 for CIFAR.
        """
        if locals < 0:
            raise InputError(f"plan.locals: {locals} must be at least 0")
        if not 0 <= strength <= 2.5:
            raise InputError(f"plan.strength is 0 to 2.5 (the hue shift is at most half a turn), not {strength}")
        jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
        look = Photometric(*jitter, grey_p=grey_p, blur_p=blur_p)
        side = round(size * 96 / 224) if local_size is None else local_size
        slots = [Slot("global", size, scale, photometric=look)]
        if locals:
            slots.append(Slot("local", side, local_scale, draw=2 * locals, keep=locals, target=False, photometric=look))
        return ViewPlan(tuple(slots))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> SwAVEncoding:
        # All views of one size in one batch, so in one BN group, as in the paper's code.
        return SwAVEncoding(encode(self.backbone, self.projector, views))

    @outside_autocast
    def costs(self, encoding: SwAVEncoding) -> Costs:
        """``cross[t, v] = -sum_k q_t[k] log softmax(z_v c_k / temperature)`` (equation 2): the cross-entropy of view v
        to the code of view t, which is without gradient (equation 3)."""
        unit = F.normalize(full_precision(encoding.projection), dim=-1)
        targets = unit[: self.plan.targets_of(len(unit))].detach()
        logits = unit @ self._rows().T  # [V, B, P]
        cross = all_pairs((logits / self.temperature).transpose(0, 1), self._codes(targets).transpose(0, 1))
        return Costs(cross.permute(1, 2, 0))

    def _rows(self) -> Tensor:
        """The prototypes, unit vectors ``[P, D]``: as the optimizer has them, or those of an average of weights."""
        return self.prototypes if self.prototypes.requires_grad else F.normalize(self.prototypes, dim=1)

    @torch.no_grad()
    def _codes(self, targets: Tensor) -> Tensor:
        """The codes ``[T, B, P]`` of target views, unit vectors ``[T, B, D]``."""
        prototypes = Prototypes(self._rows())
        rank, processes = place()
        earlier = self.embeddings[:0]
        full = self.progress.step * targets.shape[1] * processes >= len(self.embeddings)
        if full and self.progress.epoch >= self.queue_from:
            earlier = self.embeddings[rank::processes]  # each process counts a part
        codes = []
        for view in targets:
            assign = sinkhorn(torch.cat([view, earlier]), prototypes, self.epsilon, self.iterations)
            codes.append(assign(prototypes.logits(view)))
        return torch.stack(codes)

    def after_backward(self) -> None:
        if self.progress.epoch < self.freeze_prototypes:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, encoding: SwAVEncoding) -> None:
        """Gives the prototypes length 1 again, and puts the first view's embeddings into the queue."""
        length = torch.linalg.vector_norm(self.prototypes, dim=1, keepdim=True)
        # Rows that have length 1 up to rounding stay, so that a step that is skipped changes nothing.
        near = (length - 1).abs() <= 4 * torch.finfo(length.dtype).eps
        self.prototypes.div_(torch.where(near, 1.0, length))
        if len(self.embeddings):
            new = gather(F.normalize(full_precision(encoding.projection[:1]), dim=-1))[0]
            self.embeddings.copy_(torch.cat([new.to(self.embeddings.dtype), self.embeddings])[: len(self.embeddings)])

    def statistics(self, encoding: SwAVEncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}
