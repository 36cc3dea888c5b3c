"""DINOv2: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024 (arXiv 2304.07193),
with the Gram anchoring of DINOv3: Siméoni et al., 2025 (arXiv 2508.10104)."""

from typing import Literal, NamedTuple

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
    per_view,
)
from hardviews.methods.dino import check_numbers, drop_gradients, encode
from hardviews.methods.ibot import IBOT, IBOTTeacher, encode_targets, gather_patches, hidden_first
from hardviews.networks.assignment import cross_entropies, entropies, patch_cross_entropies, warmed_up
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import PrototypeHead
from hardviews.networks.masked_vit import check_has_patches, tokens
from hardviews.networks.regularizers import gram, koleo
from hardviews.networks.sinkhorn import Codes, sinkhorn
from hardviews.networks.teacher import GramTeacher, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import ViewPlan


class DINOv2Encoding(NamedTuple):
    student: Tensor  # [V, B, D], unit vectors, the input of the last layer
    teacher: Tensor  # [T, B, D], without gradient, like everything of a teacher
    student_patches: Tensor  # [T, B, M, D], of as many patches as can be hidden, hidden ones first
    teacher_patches: Tensor  # [T, B, M, D]
    hidden: Tensor  # [T, B, M], which of the M are hidden
    features: Tensor  # [T, B, F], the student's, before the head
    patches: Tensor  # [T, B, N, F], the student's, of all patches; N is 0 without Gram anchoring
    anchors: Tensor  # [T, B, N, F], the same of the Gram teacher


class DINOv2(Method[DINOv2Encoding]):
    """iBOT with Sinkhorn-Knopp in place of centres, a head for patches of its own, and KoLeo, which spreads the images
    of a batch; with Gram anchoring on request. Backbones may have registers (timm's ``reg`` models).

    Per image, and so both in selection and in training: the terms between views, those of hidden patches, and Gram
    anchoring. KoLeo compares images, so it is added to the loss of the kept views only.

    Args:
        backbone: the student's, a timm ViT. The teacher gets no drop-path.
        plan: global views with masks, and local views, which are no targets.
        prototypes: width of the heads' outputs.
        hidden_dim: width of the heads' MLP.
        bottleneck_dim: width of a last layer's input.
        norm_last_layer: fix the prototypes' length at 1; false learns it.
        shared_head: one head for views and for patches.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, after its warm-up.
        warmup_teacher_temperature: teacher temperature at the start of its warm-up.
        warmup_teacher_epochs: length of that linear warm-up.
        iterations: of Sinkhorn-Knopp.
        teacher_momentum: at the start; it rises to 1 along a half cosine.
        freeze_last_layer: number of first epochs in which the last layers are not trained.
        view_weight: weight of the loss between views.
        patch_weight: weight of the loss of hidden patches.
        koleo_weight: weight of KoLeo, which is added for every kept global view; 0 for none.
        gram_weight: weight of Gram anchoring (2 in DINOv3); 0 for none. It takes a forward of the Gram teacher.
        gram_from: epoch at which it begins, with the teacher of that moment as Gram teacher; 0 keeps the similarities
            of patches near those of the weights that the run starts from.
        gram_every: epochs after which the Gram teacher becomes the teacher of that moment again; 0 for never.
    """

    training_defaults = Training(
        optimizer="adamw", lr=1e-3, weight_decay=0.04, weight_decay_end=0.4, min_lr=1e-6, warmup_epochs=10.0,
        decay_bias_and_norm=False, clip=3.0, clip_mode="all",
    )  # fmt: skip
    evaluated = "teacher.backbone"
    needs_whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        shared_head: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        warmup_teacher_temperature: float = 0.04,
        warmup_teacher_epochs: int = 30,
        iterations: int = 3,
        teacher_momentum: float = 0.992,
        freeze_last_layer: int = 1,
        view_weight: float = 1.0,
        patch_weight: float = 1.0,
        koleo_weight: float = 0.1,
        gram_weight: float = 0.0,
        gram_from: float = 0.0,
        gram_every: float = 0.0,
    ) -> None:
        super().__init__(backbone, plan)
        check_has_patches(backbone)
        if not any(slot.mask for slot in plan.slots):
            raise InputError("DINOv2 learns from hidden patches, but no slot of this plan has a mask")
        check_numbers(student_temperature, teacher_momentum, freeze_last_layer, warmup_teacher_epochs)
        if min(teacher_temperature, warmup_teacher_temperature) <= 0:
            raise InputError("method.teacher_temperature and warmup_teacher_temperature must be above 0")
        if iterations < 1:
            raise InputError(f"method.iterations must be at least 1, got {iterations}")
        if min(view_weight, patch_weight, koleo_weight, gram_weight, gram_from, gram_every) < 0:
            raise InputError("method: view_weight, patch_weight and those of koleo and gram must be at least 0")
        if not gram_weight and (gram_from or gram_every):
            raise InputError("method.gram_from and gram_every do nothing without gram_weight (2 in DINOv3)")
        self.student_temperature, self.teacher_momentum = student_temperature, teacher_momentum
        self.temperatures = warmup_teacher_temperature, teacher_temperature, warmup_teacher_epochs
        self.iterations, self.freeze_last_layer = iterations, freeze_last_layer
        self.view_weight, self.patch_weight, self.koleo_weight = view_weight, patch_weight, koleo_weight
        self.gram_weight, self.gram_from, self.gram_every = gram_weight, gram_from, gram_every
        dim = feature_dim(backbone)
        self.head = PrototypeHead(dim, prototypes, hidden_dim, bottleneck_dim, False, norm_last_layer)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.patch_head = self.head
        if not shared_head:
            self.patch_head = PrototypeHead(dim, prototypes, hidden_dim, bottleneck_dim, False, norm_last_layer)
        self.teacher = IBOTTeacher(backbone=backbone, head=self.head, patch_head=self.patch_head)
        self.gram_teacher = GramTeacher(backbone, begun=not gram_from) if gram_weight else None

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.32, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.32),
        local_size: int | None = None,
        locals: int = 8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5),
        solarize_p: float = 0.2,
        mask_p: float = 0.5,
        mask_ratio: float = 0.3,
        mask_spread: float = 0.2,
        masks: Literal["shared", "published"] = "shared",
    ) -> ViewPlan:
        """The paper's code: iBOT's views with other crops; draws twice as many candidates of every kind as it keeps.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a fraction of the image's.
            local_scale: the same for local crops.
            local_size: side of a local view in pixels; by default 96 for 224, and in proportion.
            locals: number of local views kept, of twice as many drawn.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probabilities of a Gaussian blur of 0.1 to 2 pixels, for global views A, B and local views.
            solarize_p: probability that global view B is solarized.
            mask_p: probability that a global view is masked.
            mask_ratio, mask_spread: a masked view hides a fraction mask_ratio ± mask_spread of its patches.
            masks: shared draws masking and ratio once for all candidates of a kind; published draws them for every
                view, and selection then keeps mostly masked views, since they cost more.
        """
        return IBOT.default_plan(
            size, scale, local_scale, local_size, locals, brightness, contrast, saturation, hue, grey_p, blur_p,
            solarize_p, mask_p, mask_ratio, mask_spread, masks,
        )  # fmt: skip

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> DINOv2Encoding:
        count = self.plan.targets_of(len(views))
        global_views, local = torch.cat(views[:count]), views[count:]
        found = tokens(
            self.backbone, global_views, None if masks is None else masks[:count].flatten(0, 1), self.mask_token
        )
        order, hidden = hidden_first(self.plan, self.backbone, masks, global_views)
        patches = found[:, int(self.backbone.num_prefix_tokens) :]  # type: ignore[arg-type]
        features = self.backbone.forward_head(found, pre_logits=True)  # type: ignore[operator]
        others = [self.backbone(torch.cat(local))] if local else []
        student = per_view(self.head(torch.cat([features, *others])), len(views))
        student_patches = per_view(self.patch_head(gather_patches(patches, order)), count)
        teacher, teacher_patches, anchors = (targets or self._targets(global_views, order, count)).fields
        return DINOv2Encoding(
            student, teacher, student_patches, teacher_patches, per_view(hidden, count), per_view(features, count),
            per_view(patches, count)[:, :, : anchors.shape[2]], anchors,
        )  # fmt: skip

    @torch.no_grad()
    def _targets(self, global_views: Tensor, order: Tensor, count: int) -> TargetEncoding:
        """Encodings of target views: of the teacher, its patches, and the patches of the Gram teacher."""
        teacher, patches, _ = encode_targets(self.teacher, global_views, order, count).fields
        anchors = global_views.new_zeros(len(global_views), 0, self.mask_token.shape[0])
        if self.gram_teacher is not None and self.progress.step >= self._gram_steps()[0]:
            vit = self.gram_teacher.backbone
            anchors = tokens(vit, global_views)[:, int(vit.num_prefix_tokens) :]  # type: ignore[arg-type]
        return TargetEncoding((teacher, patches, per_view(anchors, count)))

    def _gram_steps(self) -> tuple[int, int]:
        """The first step with Gram anchoring, and after how many steps its teacher is replaced, 0 for never."""
        per_epoch = self.progress.steps_per_epoch
        every = max(1, round(self.gram_every * per_epoch)) if self.gram_every else 0
        return round(self.gram_from * per_epoch), every

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        """Terms between views only: the teacher hides no patches of its own."""
        count, targets, found = self.plan.targets, None, []
        if reuse and not self.teacher.uses_batch_statistics():
            global_views = torch.cat(views[:count])
            order, _ = hidden_first(self.plan, self.backbone, masks, global_views)
            targets = self._targets(global_views, order, count)
            found.append(targets.fields[0])
        if len(views) > len(found) * count:  # all views, or only the local ones
            found.append(encode(self.teacher.backbone, self.teacher.head, views[len(found) * count :]))
        student = torch.cat(found)
        with torch.autocast(student.device.type, enabled=False):
            return Costs(self._cross(student, self.teacher.head, student[:count])), targets

    @outside_autocast
    def costs(self, encoding: DINOv2Encoding) -> Costs:
        """``cross[t, v]``: the cross-entropy of the student's view v to the code of the teacher's view t. ``own[t]``:
        the mean cross-entropy over the hidden patches of view t, plus Gram anchoring.

        Codes come from Sinkhorn-Knopp over all target views of all images of all processes at once, and those of
        patches over all hidden patches (section 4, "Sinkhorn-Knopp centering"): of the candidates in selection, and of
        the kept views in training.

        Gram anchoring (DINOv3, equation 2) is ``mean((X X^T - A A^T)^2)`` with the unit vectors X of a view's patches
        and A of the Gram teacher's: the paper's squared norm, divided by the number of pairs of patches.
        """
        hidden, teacher = encoding.hidden, encoding.teacher_patches
        own = encoding.student.new_zeros(hidden.shape[:2])
        if hidden.shape[2]:
            terms = patch_cross_entropies(
                encoding.student_patches / self.student_temperature, self.patch_head, teacher,
                self.teacher.patch_head, self._codes(teacher, self.teacher.patch_head, hidden), self.progress.epoch,
            )  # fmt: skip
            own = self.patch_weight * (terms * hidden).sum(-1) / hidden.sum(-1).clamp(min=1)
        if encoding.anchors.shape[2]:
            own = own + self.gram_weight * gram(full_precision(encoding.patches), full_precision(encoding.anchors))
        return Costs(self._cross(encoding.student, self.head, encoding.teacher), own)

    def _cross(self, student: Tensor, head: PrototypeHead, teacher: Tensor) -> Tensor:
        """The terms between views, ``[T, V, B]``, of encodings ``[V, B, D]`` and ``[T, B, D]``."""
        return self.view_weight * cross_entropies(
            student / self.student_temperature, head, teacher, self.teacher.head,
            self._codes(teacher, self.teacher.head), self.progress.epoch,
        )  # fmt: skip

    @torch.no_grad()
    def _codes(self, teacher: Tensor, head: PrototypeHead, counted: Tensor | None = None) -> Codes:
        """What maps the teacher's logits to codes that share all vectors ``[..., D]`` equally among the prototypes; of
        those that are not ``counted``, ``[...]``, none takes part."""
        vectors, weight = teacher.flatten(0, -2), None if counted is None else counted.flatten()
        temperature = warmed_up(self.progress.epoch, *self.temperatures)
        return sinkhorn(vectors, head.for_logits(len(vectors)), temperature, self.iterations, weight)

    def loss(self, encoding: DINOv2Encoding) -> Tensor:
        """The total of the kept views, averaged over images, plus KoLeo of each kept global view (section 4, "KoLeo
        regularizer")."""
        loss = super().loss(encoding)
        if not self.koleo_weight:
            return loss
        with torch.autocast(loss.device.type, enabled=False):
            return loss + self.koleo_weight * koleo(full_precision(encoding.features)).sum()

    def reusable(self, encoding: DINOv2Encoding) -> TargetEncoding | None:
        if self.teacher.uses_batch_statistics():
            return None
        return TargetEncoding((encoding.teacher, encoding.teacher_patches, encoding.anchors))

    def after_backward(self) -> None:
        if self.progress.epoch < self.freeze_last_layer:
            for head in (self.head, self.patch_head):
                drop_gradients(head.last_layer)

    def after_step(self, encoding: DINOv2Encoding) -> None:
        """Updates the teacher, and in some steps the Gram teacher."""
        step = self.progress.step
        momentum = cosine_momentum(self.teacher_momentum, step, self.progress.steps)
        self.teacher.follow([self.backbone, self.head, self.patch_head], momentum)
        first, every = self._gram_steps()
        since = step + 1 - first
        if self.gram_teacher is None or since < 0:
            return
        if since == 0 or (every and since % every == 0):
            self.gram_teacher.take(self.teacher.backbone)
        else:  # a run that is extended may have passed that step without Gram anchoring
            self.gram_teacher.begin(self.teacher.backbone)

    def statistics(self, encoding: DINOv2Encoding) -> dict[str, Tensor]:
        codes = self._codes(encoding.teacher, self.teacher.head)
        found = entropies(encoding.teacher, self.teacher.head, codes, self.progress.epoch)
        return found | {"feature_std": feature_std(encoding.teacher)}
