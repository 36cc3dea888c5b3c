"""MoCo v3: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021 (arXiv
2104.02057)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, full_precision, outside_autocast
from hardviews.networks.backbones import feature_dim
from hardviews.networks.gather import gather
from hardviews.networks.heads import mlp
from hardviews.networks.teacher import Teacher, check_momentum, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class MoCoV3Encoding(NamedTuple):
    query: Tensor  # [V, B, D]
    key: Tensor  # [T, B, D], the teacher's, without gradient


class MoCoV3Teacher(Teacher):
    backbone: nn.Module
    projector: nn.Module


class MoCoV3(Method[MoCoV3Encoding]):
    """Finds a momentum teacher's key of another view of the image among the keys of all images of the batch, on every
    process.

    Defaults are those of the paper's ResNet-50. For a ViT it takes ``projector_layers`` 3 and ``temperature`` 0.2
    (recipe ``mocov3_vits16_imagenet``).

    Args:
        backbone: images to features.
        plan: two or more kept views; all ordered pairs count alike.
        dim: width of queries and keys (256 in the paper).
        hidden_dim: width of projector and predictor (4096 in the paper).
        projector_layers: 2 for a ResNet and 3 for a ViT in the paper; the predictor has 2.
        predictor_norm: BN at the end of the predictor, as the authors' code has for a ViT and not for a ResNet.
        temperature: of the softmax (1 for a ResNet and 0.2 for a ViT in the paper).
        teacher_momentum: at the start; it rises to 1 along a half cosine (0.99 in the paper, 0.996 for 1000 epochs).
        fixed_patch_projection: leave the patch projection of a ViT of timm as it starts, which prevents dips in
            training (section 4.2).
    """

    training_defaults = Training(
        optimizer="lars", lr=0.6, weight_decay=1e-6, warmup_epochs=10.0, decay_bias_and_norm=False
    )
    needs_whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 256,
        hidden_dim: int = 4096,
        projector_layers: int = 2,
        predictor_norm: bool = False,
        temperature: float = 1.0,
        teacher_momentum: float = 0.99,
        fixed_patch_projection: bool = True,
    ) -> None:
        super().__init__(backbone, plan)
        if temperature <= 0:
            raise InputError(f"method.temperature must be above 0, got {temperature}")
        if projector_layers < 1:
            raise InputError(f"method.projector_layers must be at least 1, got {projector_layers}")
        check_momentum(teacher_momentum)
        self.temperature, self.teacher_momentum = temperature, teacher_momentum
        projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
        if fixed_patch_projection and isinstance(projection, nn.Module):
            projection.requires_grad_(False)
        hidden = [hidden_dim] * (projector_layers - 1)
        self.projector = mlp([feature_dim(backbone), *hidden, dim], last_norm="plain")
        predictor = mlp([dim, hidden_dim, dim], last_norm="plain")
        self.predictor = predictor if predictor_norm else predictor[:-1]
        self.teacher = MoCoV3Teacher(backbone=backbone, projector=self.projector)

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.2, 1.0),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: tuple[float, float] = (1.0, 0.1),
        solarize_p: float = 0.2,
        keep: int = 1,
    ) -> ViewPlan:
        """Section 4 of the paper, whose augmentations are BYOL's: two kinds of view; two of each are drawn and one is
        kept.

        Args:
            size: side of a view in pixels.
            scale: range of the crop's area as a fraction of the image's; 0.08 to 1 for a ViT.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels, for each kind.
            solarize_p: probability that a view of the second kind is solarized.
            keep: number of views kept of each kind, of twice as many drawn; 1 in the paper.
        """
        looks = [
            Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur, solarize_p=solarize)
            for blur, solarize in zip(blur_p, (0.0, solarize_p), strict=True)
        ]
        kinds = zip(("A", "B"), looks, strict=True)
        return ViewPlan(
            tuple(Slot(name, size, scale, draw=2 * keep, keep=keep, photometric=look) for name, look in kinds)
        )

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> MoCoV3Encoding:
        # One view at a time, so that BN statistics are those of one view, as in the paper's code.
        query = torch.stack([self.predictor(self.projector(self.backbone(view))) for view in views])
        if targets is not None:
            return MoCoV3Encoding(query, targets.fields[0])
        with torch.no_grad():
            return MoCoV3Encoding(query, self._keys(views[: self.plan.targets_of(len(views))]))

    def _keys(self, views: list[Tensor]) -> Tensor:
        return torch.stack([self.teacher.projector(self.teacher.backbone(view)) for view in views])

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        key = self._keys(views)
        encoding = MoCoV3Encoding(key, key[: self.plan.targets])
        return self.costs(encoding), self.reusable(encoding)

    @outside_autocast
    def costs(self, encoding: MoCoV3Encoding) -> Costs:
        """InfoNCE (equation 1) of every view with every target view, times 4 temperatures.

        ``cross[t, v] = 4 τ (-s(v_i, t_i) + log(sum_j exp s(v_i, t_j)))`` with s = cosine / τ and j over the images of
        all processes. For two views the total is the loss of algorithm 1: both directions, each times 2 τ.
        """
        query = F.normalize(full_precision(encoding.query), dim=-1)
        key = F.normalize(full_precision(encoding.key), dim=-1)
        logits = torch.einsum("vid,tjd->tvij", query, gather(key)) / self.temperature  # [T, V, B, G]
        positive = torch.einsum("vid,tid->tvi", query, key) / self.temperature
        return Costs(4 * self.temperature * (logits.logsumexp(-1) - positive))

    def reusable(self, encoding: MoCoV3Encoding) -> TargetEncoding | None:
        return None if self.teacher.uses_batch_statistics() else TargetEncoding((encoding.key,))

    def after_step(self, encoding: MoCoV3Encoding) -> None:
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.projector], momentum)

    def statistics(self, encoding: MoCoV3Encoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.key)}
