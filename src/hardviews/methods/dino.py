"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294)."""

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, feature_std, outside_autocast, per_view
from hardviews.networks.assignment import Assignment, cross_entropies
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import PrototypeHead
from hardviews.networks.teacher import Teacher, check_momentum, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan


class DINOEncoding(NamedTuple):
    student: Tensor  # [V, B, D], unit vectors that go into the last layer
    teacher: Tensor  # [T, B, D], the same of the target views, without gradient


class DINO(Method[DINOEncoding]):
    """The student predicts, from every view, which prototypes a momentum teacher assigns another, global view to.

    Args:
        backbone: images to features; the student's. With drop-path, it is the student's alone.
        plan: global views of two kinds and local views, which are no targets.
        prototypes: width of the head's output.
        hidden_dim: width of the head's MLP.
        bottleneck_dim: width of what goes into the head's last layer.
        bn_in_head: BN after the hidden layers of the head.
        norm_last_layer: prototypes of length 1; false trains longer ones, which helps large ViTs less stably.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax, after its warm-up.
        warmup_teacher_temperature: where the warm-up starts.
        warmup_teacher_epochs: epochs of its linear warm-up.
        teacher_momentum: at the start; it grows to 1 by half a cosine.
        centre_momentum: of the mean that the teacher's outputs are centred by.
        freeze_last_layer: epochs during which the last layer is not trained.
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
        """Section 3.1 and appendix C of the paper; twice as many candidates of every kind are drawn as are kept.

        The published hard views choose among views of one kind A and three of kind B, and take local views as they
        come; two of each kind, and local views selected too, are this library's choice.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a part of the image's.
            local_scale: the same of local crops.
            local_size: side of a local view; by default 96 for 224, and in proportion.
            locals: local views kept; 0 for none.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels: global views A, B, local views.
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
        """``cross[t, v]``: the cross-entropy of the student's view v to the teacher's view t (equations 1 to 3)."""
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
        """Equation 4, then the teacher, in this order: the centre is of the outputs of the teacher as it was."""
        self.assignment.move_centre(encoding.teacher, self.teacher.head)
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.head], momentum)

    def statistics(self, encoding: DINOEncoding) -> dict[str, Tensor]:
        entropies = self.assignment.entropies(encoding.teacher, self.teacher.head, self.progress.epoch)
        return entropies | {"feature_std": feature_std(encoding.teacher)}


class DINOTeacher(Teacher):
    backbone: nn.Module
    head: PrototypeHead


def check_numbers(student_temperature: float, teacher_momentum: float, frozen: int, warmup: int) -> None:
    """Raises InputError for settings of DINO or iBOT that no run can work with."""
    if student_temperature <= 0:
        raise InputError(f"method.student_temperature must be above 0, got {student_temperature}")
    check_momentum(teacher_momentum)
    if frozen < 0 or warmup < 0:
        raise InputError(f"method.freeze_last_layer {frozen} and warmup_teacher_epochs {warmup} must be at least 0")


def drop_gradients(module: nn.Module) -> None:
    """Leaves the optimizer nothing of a module, so that not even weight decay and momenta act on it."""
    for parameter in module.parameters():
        parameter.grad = None


def encode(backbone: nn.Module, head: nn.Module, views: list[Tensor]) -> Tensor:
    """``[V, B, D]``: views of one size go through the backbone in one batch, all of them through the head in one."""
    features = [backbone(torch.cat(list(group))) for _, group in groupby(views, key=lambda view: view.shape)]
    return per_view(head(torch.cat(features)), len(views))
