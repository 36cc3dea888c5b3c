"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294)."""

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, outside_autocast, per_view
from hardviews.networks.assignment import Assignment, cross_entropies, entropies
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import PrototypeHead
from hardviews.networks.teacher import Teacher, check_momentum, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class DINOEncoding(NamedTuple):
    student: Tensor  # unit vectors, the input of the last layer
    teacher: Tensor  # the same for target views, without gradient


class DINO(Method[DINOEncoding]):
    """From every view, the student predicts the prototypes that a momentum teacher assigns to another, global view.

    Args:
        backbone: the student's, images to features. The teacher gets no drop-path.
        plan: two kinds of global views, and local views, which are no targets.
        prototypes: width of the head's output.
        hidden_dim: width of the head's MLP.
        bottleneck_dim: width of the last layer's input.
        bn_in_head: BN after the hidden layers of the head.
        norm_last_layer: fix the prototypes' length at 1; false learns it, which improves large ViTs but is less stable.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax, after its warm-up.
        warmup_teacher_temperature: teacher temperature at the start of its warm-up.
        warmup_teacher_epochs: length of that linear warm-up.
        teacher_momentum: at the start; it rises to 1 along a half cosine.
        centre_momentum: of the running mean that centres the teacher's outputs.
        freeze_last_layer: number of first epochs in which the last layer is not trained.
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
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        bn_in_head: bool = False,
        norm_last_layer: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        warmup_teacher_epochs: int = 0,
        teacher_momentum: float = 0.996,
        centre_momentum: float = 0.9,
        freeze_last_layer: int = 1,
    ) -> None:
        super().__init__(backbone, plan)
        check_numbers(student_temperature, teacher_momentum, freeze_last_layer, warmup_teacher_epochs)
        self.student_temperature = student_temperature
        self.teacher_momentum = teacher_momentum
        self.freeze_last_layer = freeze_last_layer
        self.head = PrototypeHead(
            feature_dim(backbone), prototypes, hidden_dim, bottleneck_dim, bn_in_head, norm_last_layer
        )
        self.teacher = DINOTeacher(backbone=backbone, head=self.head)
        self.assignment = Assignment(
            prototypes, centre_momentum, teacher_temperature, warmup_teacher_temperature, warmup_teacher_epochs
        )

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        local_size: int | None = None,
        locals: int = 8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5),
        solarize_p: float = 0.2,
    ) -> ViewPlan:
        """Section 3.1 and appendix C of the paper; draws twice as many candidates of every kind as it keeps.

        The published hard views choose among one view of kind A and three of kind B, and keep local views as drawn. Two
        of each kind, and selection among local views, are this library's choice.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a fraction of the image's.
            local_scale: the same for local crops.
            local_size: side of a local view in pixels; by default 96 for 224, and in proportion.
            locals: number of local views kept.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probabilities of a Gaussian blur of 0.1 to 2 pixels, for global views A, B and local views.
            solarize_p: probability that global view B is solarized.
        """
        if locals < 0:
            raise InputError(f"plan.locals: {locals} must be at least 0")

        side = round(size * 96 / 224) if local_size is None else local_size

        def kind(name: str, blur: float, solarize: float = 0.0, *, local: bool = False) -> Slot:
            look = Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur, solarize_p=solarize)
            keep = locals if local else 1
            return Slot(
                name, side if local else size, local_scale if local else scale,
                interpolation="bicubic", draw=2 * keep, keep=keep, target=not local, photometric=look,
            )  # fmt: skip

        globals = kind("global A", blur_p[0]), kind("global B", blur_p[1], solarize_p)
        return ViewPlan((*globals, *([kind("local", blur_p[2], local=True)] if locals else [])))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> DINOEncoding:
        student = encode(self.backbone, self.head, views)
        if targets is not None:
            return DINOEncoding(student, targets.fields[0])
        with torch.no_grad():
            teacher = encode(self.teacher.backbone, self.teacher.head, views[: self.plan.targets_of(len(views))])
        return DINOEncoding(student, teacher)

    @outside_autocast
    def costs(self, encoding: DINOEncoding) -> Costs:
        """``cross[t, v]``: the cross-entropy between the student's view v and the teacher's view t (equations 1 to
        3)."""
        return self._costs(encoding, self.head)

    def _costs(self, encoding: DINOEncoding, head: PrototypeHead) -> Costs:
        return Costs(
            cross_entropies(
                encoding.student / self.student_temperature, head,
                encoding.teacher, self.teacher.head, self.assignment, self.progress.epoch,
            )
        )  # fmt: skip

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        found = encode(self.teacher.backbone, self.teacher.head, views)
        encoding = DINOEncoding(found, found[: self.plan.targets])
        with torch.autocast(found.device.type, enabled=False):
            return self._costs(encoding, self.teacher.head), self.reusable(encoding)

    def reusable(self, encoding: DINOEncoding) -> TargetEncoding | None:
        return None if self.teacher.uses_batch_statistics() else TargetEncoding((encoding.teacher,))

    def after_backward(self) -> None:
        if self.progress.epoch < self.freeze_last_layer:
            drop_gradients(self.head.last_layer)

    def after_step(self, encoding: DINOEncoding) -> None:
        """Equation 4, then the teacher: the centre uses the outputs of the teacher before its update."""
        self.assignment.move_centre(encoding.teacher, self.teacher.head)
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.head], momentum)

    def statistics(self, encoding: DINOEncoding) -> dict[str, Tensor]:
        found = entropies(encoding.teacher, self.teacher.head, self.assignment, self.progress.epoch)
        return found | {"feature_std": feature_std(encoding.teacher)}


class DINOTeacher(Teacher):
    backbone: nn.Module
    head: PrototypeHead


def check_numbers(student_temperature: float, teacher_momentum: float, frozen: int, warmup: int) -> None:
    """Raises InputError for DINO or iBOT settings that no run can use."""
    if student_temperature <= 0:
        raise InputError(f"method.student_temperature must be above 0, got {student_temperature}")
    check_momentum(teacher_momentum)
    if frozen < 0 or warmup < 0:
        raise InputError(f"method.freeze_last_layer {frozen} and warmup_teacher_epochs {warmup} must be at least 0")


def drop_gradients(module: nn.Module) -> None:
    """Removes a module's gradients, so that neither weight decay nor momentum changes it."""
    for parameter in module.parameters():
        parameter.grad = None


def encode(backbone: nn.Module, head: nn.Module, views: list[Tensor]) -> Tensor:
    """``[V, B, D]``: the backbone gets one batch per view size, the head one batch of all views."""
    features = [backbone(torch.cat(list(group))) for _, group in groupby(views, key=lambda view: view.shape)]
    return per_view(head(torch.cat(features)), len(views))
