"""SimCLR: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020 (arXiv
2002.05709)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, full_precision, outside_autocast
from hardviews.networks.backbones import feature_dim
from hardviews.networks.gather import gather, place
from hardviews.networks.heads import mlp
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class SimCLREncoding(NamedTuple):
    projection: Tensor  # [V, B, D]


class SimCLR(Method[SimCLREncoding]):
    """Contrasts the other view of an image with all views of all other images of the batch, on every process.

    Args:
        backbone: images to features.
        plan: two kept views of one slot.
        dim: width of the embedding (128 in the paper).
        hidden_dim: width of the projector (2048 in the paper for a ResNet-50).
        temperature: of the softmax (0.1 in the paper).
    """

    training_defaults = Training(
        optimizer="lars", lr=0.3, weight_decay=1e-4, warmup_epochs=10.0, decay_bias_and_norm=False
    )
    needs_whole_batch = True

    def __init__(
        self, backbone: nn.Module, plan: ViewPlan, dim: int = 128, hidden_dim: int = 2048, temperature: float = 0.1
    ) -> None:
        super().__init__(backbone, plan)
        if temperature <= 0:
            raise InputError(f"method.temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.projector = mlp([feature_dim(backbone), hidden_dim, dim], last_norm="affine")

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        strength: float = 1.0,
        grey_p: float = 0.2,
        blur_p: float = 0.5,
    ) -> ViewPlan:
        """Appendix A of the paper: four views drawn, two kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a fraction of the image's.
            strength: of the colour jitter, multiplies (0.8, 0.8, 0.8, 0.2); 0.5 for CIFAR.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels; 0 for CIFAR.
        """
        if not 0 <= strength <= 2.5:
            raise InputError(f"plan.strength is 0 to 2.5 (the hue shift is at most half a turn), not {strength}")
        jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
        return ViewPlan(
            (Slot("view", size=size, scale=scale, photometric=Photometric(*jitter, grey_p=grey_p, blur_p=blur_p)),)
        )

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> SimCLREncoding:
        # All views in one batch, so in one BN group, as in the paper's code.
        projection = self.projector(self.backbone(torch.cat(views)))
        return SimCLREncoding(projection.unflatten(0, (len(views), -1)))

    def statistics(self, encoding: SimCLREncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}

    @outside_autocast
    def costs(self, encoding: SimCLREncoding) -> Costs:
        """NT-Xent (equation 1) for every ordered pair of views at once.

        For the pair (a, b), the negatives of image i are views a and b of all other images. With s = cosine /
        temperature, the denominator joins a row of similarities against view a and one against view b:
        ``cross[b, a] = -s(a_i, b_i) + log(sum_j exp s(a_i, b_j) + sum_{j != i} exp s(a_i, a_j))``.
        """
        own = F.normalize(full_precision(encoding.projection), dim=-1)  # [V, B, D]
        everyone = gather(own)  # [V, G, D], G images on all processes
        views, batch, _ = own.shape
        similarity = torch.einsum("aid,bjd->aibj", own, everyone) / self.temperature  # [V, B, V, G]
        here = torch.arange(batch, device=own.device)
        there = here + place()[0] * batch
        view = torch.arange(views, device=own.device)
        positive = similarity[:, here, :, there]  # [B, V, V]: s(a_i, b_i)
        # A comparison, not an assignment by index: CUDA would wait to copy the assigned number.
        same_image = there[:, None] == torch.arange(everyone.shape[1], device=own.device)  # [B, G]
        itself = (view[:, None] == view)[:, None, :, None] & same_image[:, None]  # [V, B, V, G]
        spread = similarity.masked_fill(itself, -math.inf).logsumexp(-1)  # [V, B, V]: over j, a against each view
        same = spread[view, :, view]  # [V, B]: a against a, without itself
        cross = torch.logaddexp(spread, same[:, :, None]) - positive.permute(1, 0, 2)  # [a, i, b]
        return Costs(cross.permute(2, 0, 1))
