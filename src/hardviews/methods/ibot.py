"""iBOT: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022 (arXiv 2111.07832)."""

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, outside_autocast, per_view
from hardviews.methods.dino import DINO, check_numbers, drop_gradients, encode
from hardviews.networks.assignment import Assignment, cross_entropies, entropies, patch_cross_entropies
from hardviews.networks.backbones import feature_dim, patch_size
from hardviews.networks.heads import PrototypeHead
from hardviews.networks.masked_vit import check_has_patches, resample_mask, tokens
from hardviews.networks.teacher import Teacher, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Masking, ViewPlan


class IBOTEncoding(NamedTuple):
    """Unit vectors, the input of last layers. Holds only as many patches as can be hidden, hidden ones first."""

    student: Tensor  # [V, B, D], of views
    teacher: Tensor  # without gradient, like everything of the teacher
    student_patches: Tensor  # [T, B, M, D]
    teacher_patches: Tensor  # [T, B, M, D]
    hidden: Tensor  # which of the M are hidden
    patch_mean: Tensor  # mean over all the teacher's patches, for the centre


class IBOTTeacher(Teacher):
    backbone: nn.Module
    head: PrototypeHead
    patch_head: PrototypeHead


class IBOT(Method[IBOTEncoding]):
    """DINO, plus a loss on hidden patches: the student predicts the prototypes that the teacher, which sees them,
    assigns.

    Args:
        backbone: the student's, a timm ViT. The teacher gets no drop-path.
        plan: global views with masks, and local views, which are no targets.
        prototypes: width of the heads' outputs.
        hidden_dim: width of the heads' MLP.
        bottleneck_dim: width of a last layer's input.
        norm_last_layer: fix the prototypes' length at 1; false learns it.
        shared_head: one head for views and for patches.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax over a view, after its warm-up.
        warmup_teacher_temperature: the same at the start of the warm-up.
        patch_temperature: of the teacher's softmax over a patch, after its warm-up.
        warmup_patch_temperature: the same at the start of the warm-up.
        warmup_teacher_epochs: length of both linear warm-ups.
        teacher_momentum: at the start; it rises to 1 along a half cosine.
        centre_momentum: of the running means that centre the teacher's outputs.
        freeze_last_layer: number of first epochs in which the last layers are not trained.
        view_weight: weight of the loss between views.
        patch_weight: weight of the loss of hidden patches.
    """

    training_defaults = Training(
        optimizer="adamw", lr=5e-4, weight_decay=0.04, weight_decay_end=0.4, min_lr=1e-6, warmup_epochs=10.0,
        decay_bias_and_norm=False, clip=3.0,
    )  # fmt: skip
    evaluated = "teacher.backbone"

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        prototypes: int = 8192,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        shared_head: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        patch_temperature: float = 0.07,
        warmup_patch_temperature: float = 0.04,
        warmup_teacher_epochs: int = 30,
        teacher_momentum: float = 0.996,
        centre_momentum: float = 0.9,
        freeze_last_layer: int = 1,
        view_weight: float = 1.0,
        patch_weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, plan)
        check_has_patches(backbone)
        if not any(slot.mask for slot in plan.slots):
            raise InputError("iBOT learns from hidden patches, but no slot of this plan has a mask")
        check_numbers(student_temperature, teacher_momentum, freeze_last_layer, warmup_teacher_epochs)
        if view_weight < 0 or patch_weight < 0:
            raise InputError(f"method.view_weight {view_weight} and patch_weight {patch_weight} must be at least 0")
        self.student_temperature = student_temperature
        self.teacher_momentum, self.freeze_last_layer = teacher_momentum, freeze_last_layer
        self.view_weight, self.patch_weight = view_weight, patch_weight
        dim = feature_dim(backbone)
        self.head = PrototypeHead(dim, prototypes, hidden_dim, bottleneck_dim, False, norm_last_layer)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.patch_head = self.head
        if not shared_head:
            self.patch_head = PrototypeHead(dim, prototypes, hidden_dim, bottleneck_dim, False, norm_last_layer)
        self.teacher = IBOTTeacher(backbone=backbone, head=self.head, patch_head=self.patch_head)
        self.assignment = Assignment(
            prototypes, centre_momentum, teacher_temperature, warmup_teacher_temperature, warmup_teacher_epochs
        )
        self.patch_assignment = Assignment(
            prototypes, centre_momentum, patch_temperature, warmup_patch_temperature, warmup_teacher_epochs
        )

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.25),
        local_size: int | None = None,
        locals: int = 0,
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
        """Section 4.1 and appendix B of the paper, without local views; draws two candidates of each kind and keeps
        one.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a fraction of the image's; 0.25 to 1 with local views.
            local_scale: the same for local crops.
            local_size: side of a local view in pixels; by default 96 for 224, and in proportion.
            locals: number of local views kept, of twice as many drawn; 10 in the paper's runs with local views.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probabilities of a Gaussian blur of 0.1 to 2 pixels, for global views A, B and local views.
            solarize_p: probability that global view B is solarized.
            mask_p: probability that a global view is masked.
            mask_ratio, mask_spread: a masked view hides a fraction mask_ratio ± mask_spread of its patches.
            masks: shared draws masking and ratio once for all candidates of a kind; published draws them for every
                view, and selection then keeps mostly masked views, since they cost more.
        """
        plan = DINO.default_plan(
            size, scale, local_scale, local_size, locals, brightness, contrast, saturation, hue, grey_p, blur_p,
            solarize_p,
        )  # fmt: skip
        mask = Masking(mask_p, mask_ratio, mask_spread, per_view=masks == "published")
        return replace(plan, slots=tuple(replace(slot, mask=mask) if slot.target else slot for slot in plan.slots))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> IBOTEncoding:
        count = self.plan.targets_of(len(views))
        global_views, local = torch.cat(views[:count]), views[count:]
        found = tokens(
            self.backbone, global_views, None if masks is None else masks[:count].flatten(0, 1), self.mask_token
        )
        prefix = int(self.backbone.num_prefix_tokens)  # type: ignore[arg-type]
        order, hidden = hidden_first(self.plan, self.backbone, masks, global_views)
        features = [self.backbone.forward_head(found, pre_logits=True)]  # type: ignore[operator]
        features += [self.backbone(torch.cat(local))] if local else []
        student = per_view(self.head(torch.cat(features)), len(views))
        patches = self.patch_head(gather_patches(found[:, prefix:], order))
        if targets is None:
            targets = encode_targets(self.teacher, global_views, order, count)
        return IBOTEncoding(
            student, targets.fields[0], per_view(patches, count), targets.fields[1],
            per_view(hidden, count), targets.fields[2],
        )  # fmt: skip

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        """Terms between views only: the teacher hides no patches of its own."""
        count, targets, found = self.plan.targets, None, []
        if reuse and not self.teacher.uses_batch_statistics():
            global_views = torch.cat(views[:count])
            order, _ = hidden_first(self.plan, self.backbone, masks, global_views)
            targets = encode_targets(self.teacher, global_views, order, count)
            found.append(targets.fields[0])
        if len(views) > len(found) * count:  # all views, or only the local ones
            found.append(encode(self.teacher.backbone, self.teacher.head, views[len(found) * count :]))
        student = torch.cat(found)
        with torch.autocast(student.device.type, enabled=False):
            return Costs(self._cross(student, self.teacher.head, student[:count])), targets

    @outside_autocast
    def costs(self, encoding: IBOTEncoding) -> Costs:
        """``cross`` as in DINO; ``own[t]`` is the mean cross-entropy, over the hidden patches of view t, between the
        student, which does not see them, and the teacher, which does (equations 2 and 3)."""
        patches = patch_cross_entropies(
            encoding.student_patches / self.student_temperature, self.patch_head,
            encoding.teacher_patches, self.teacher.patch_head, self.patch_assignment, self.progress.epoch,
        )  # fmt: skip
        hidden = encoding.hidden
        own = (patches * hidden).sum(-1) / hidden.sum(-1).clamp(min=1)
        return Costs(self._cross(encoding.student, self.head, encoding.teacher), self.patch_weight * own)

    def _cross(self, student: Tensor, head: PrototypeHead, teacher: Tensor) -> Tensor:
        """The terms between views, ``[T, V, B]``, of encodings ``[V, B, D]`` and ``[T, B, D]``."""
        return self.view_weight * cross_entropies(
            student / self.student_temperature, head,
            teacher, self.teacher.head, self.assignment, self.progress.epoch,
        )  # fmt: skip

    def reusable(self, encoding: IBOTEncoding) -> TargetEncoding | None:
        if self.teacher.uses_batch_statistics():
            return None
        return TargetEncoding((encoding.teacher, encoding.teacher_patches, encoding.patch_mean))

    def after_backward(self) -> None:
        if self.progress.epoch < self.freeze_last_layer:
            for head in (self.head, self.patch_head):
                drop_gradients(head.last_layer)

    def after_step(self, encoding: IBOTEncoding) -> None:
        """Updates both centres (the patches' over all patches, hidden or not), then the teacher."""
        self.assignment.move_centre(encoding.teacher, self.teacher.head)
        self.patch_assignment.move_centre(encoding.patch_mean, self.teacher.patch_head)
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.head, self.patch_head], momentum)

    def statistics(self, encoding: IBOTEncoding) -> dict[str, Tensor]:
        found = entropies(encoding.teacher, self.teacher.head, self.assignment, self.progress.epoch)
        return found | {"feature_std": feature_std(encoding.teacher)}


def gather_patches(patches: Tensor, order: Tensor) -> Tensor:
    """The patches at positions ``[N, M]`` of ``[N, patches, D]``: ``[N, M, D]``."""
    return patches.gather(1, order[..., None].expand(-1, -1, patches.shape[-1]))


@torch.no_grad()
def encode_targets(teacher: IBOTTeacher, global_views: Tensor, order: Tensor, count: int) -> TargetEncoding:
    """The teacher's encodings of ``count`` target views ``[count · B, C, h, w]``: of views, of the patches at
    positions ``order``, and the mean of all patches."""
    prefix = int(teacher.backbone.num_prefix_tokens)  # type: ignore[arg-type]
    found = tokens(teacher.backbone, global_views)
    views = teacher.head(teacher.backbone.forward_head(found, pre_logits=True))  # type: ignore[operator]
    patches = teacher.patch_head(found[:, prefix:])
    fields = views, gather_patches(patches, order), patches.mean(1)
    return TargetEncoding(tuple(per_view(field, count) for field in fields))


def hidden_first(
    plan: ViewPlan, backbone: nn.Module, masks: Tensor | None, global_views: Tensor
) -> tuple[Tensor, Tensor]:
    """The positions of M patches of ``count · B`` images, hidden ones first, and which of them are hidden.

    M is the maximum that a mask of the plan can hide. It is fixed, so that nothing waits for a GPU to count.

    Args:
        masks: bool ``[views, B, rows, columns]`` of all views, global ones first; None hides nothing.
        global_views: ``[count · B, C, h, w]``.
    """
    if masks is None:
        none = torch.zeros(len(global_views), 0, dtype=torch.int64, device=global_views.device)
        return none, none.bool()
    side = global_views.shape[-1] // patch_size(backbone)
    patches = side**2
    hidden = resample_mask(masks.flatten(0, 1)[: len(global_views)], (side, side)).flatten(1)
    most = patches  # at another resolution a mask may hide slightly more than its ratio
    if side == masks.shape[-1]:
        highest = max(slot.mask.ratio + slot.mask.spread for slot in plan.slots if slot.mask)
        most = max(1, int(highest * patches + 1e-4))  # sums such as 0.29 + 0.03 round to slightly less
    order = hidden.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    return order, hidden.gather(1, order)
