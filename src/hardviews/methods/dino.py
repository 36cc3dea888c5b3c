"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294)."""

from itertools import groupby
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import Method, TargetEncoding, Training, outside_autocast, per_view
from hardviews.networks.backbones import feature_dim
from hardviews.networks.heads import PrototypeHead
from hardviews.networks.teacher import Teacher, check_momentum, cosine_momentum
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan

# Without gradient logits are made for so many images at once that they are about this many numbers: on a CPU 8 MB, so
# that they stay near the cache, elsewhere 128 MB. With gradient all are needed until the backward.
LOGITS = {"cpu": 2**21}
LOGITS_ELSEWHERE = 2**25


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
        decay_1d=False, clip=3.0,
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
        return Costs(
            cross_entropies(
                encoding.student, self.head.prototypes / self.student_temperature,
                encoding.teacher, self.teacher.head.prototypes, self.assignment, self.progress.epoch,
            )
        )  # fmt: skip

    def reusable(self, encoding: DINOEncoding) -> TargetEncoding | None:
        return None if self.teacher.uses_batch_statistics() else TargetEncoding((encoding.teacher,))

    def after_backward(self) -> None:
        drop_gradients(self.head.last_layer, self.progress.epoch < self.freeze_last_layer)

    def after_step(self, encoding: DINOEncoding) -> None:
        """Equation 4, then the teacher, in this order: the centre is of the outputs of the teacher as it was."""
        self.assignment.move_centre(encoding.teacher, self.teacher.head.prototypes)
        momentum = cosine_momentum(self.teacher_momentum, self.progress.step, self.progress.steps)
        self.teacher.follow([self.backbone, self.head], momentum)

    def statistics(self, encoding: DINOEncoding) -> dict[str, Tensor]:
        return self.assignment.entropies(encoding.teacher, self.teacher.head.prototypes, self.progress.epoch)


class DINOTeacher(Teacher):
    backbone: nn.Module
    head: PrototypeHead


class Assignment(nn.Module):
    """How the teacher's logits become a distribution over prototypes: centred by a running mean, against the collapse
    onto one prototype, and sharpened by a temperature, against the collapse onto all alike.

    Args:
        prototypes: P.
        momentum: of the running mean.
        temperature: of the softmax, after its warm-up.
        warmup_temperature: where the warm-up starts.
        warmup_epochs: of the linear warm-up, which changes the temperature once an epoch.
    """

    centre: Tensor  # [P]

    def __init__(
        self, prototypes: int, momentum: float, temperature: float, warmup_temperature: float, warmup_epochs: int
    ) -> None:
        super().__init__()
        if min(temperature, warmup_temperature) <= 0:
            raise InputError(f"teacher temperatures must be above 0, got {temperature} and {warmup_temperature}")
        if not 0 <= momentum <= 1:
            raise InputError(f"method.centre_momentum is 0 to 1, not {momentum}")
        self.momentum, self.warmup_epochs = momentum, warmup_epochs
        self.start, self.end = warmup_temperature, temperature
        self.register_buffer("centre", torch.zeros(prototypes))

    def temperature(self, epoch: float) -> float:
        if epoch >= self.warmup_epochs:
            return self.end
        return self.start + (self.end - self.start) * int(epoch) / max(1, self.warmup_epochs - 1)

    def forward(self, logits: Tensor, epoch: float) -> Tensor:
        """The teacher's logits ``[..., P]`` to probabilities."""
        centred: Tensor = logits - self.centre
        return (centred / self.temperature(epoch)).softmax(-1)

    @torch.no_grad()
    def move_centre(self, encoded: Tensor, prototypes: Tensor) -> None:
        """``centre = momentum · centre + (1 - momentum) · mean of the logits``, over the images of all processes.

        Args:
            encoded: ``[..., D]``, of the teacher; the mean of their logits is the logits of their mean.
            prototypes: ``[P, D]``, the teacher's.
        """
        mean = prototypes @ encoded.flatten(0, -2).mean(0)
        average(mean)
        self.centre.lerp_(mean, 1 - self.momentum)

    @torch.no_grad()
    def entropies(self, encoded: Tensor, prototypes: Tensor, epoch: float) -> dict[str, Tensor]:
        """In nats, of an image's distribution and of the mean distribution of all images, ``encoded [T, B, D]``.

        Both collapses show: of all prototypes alike the first is log P, of one prototype for all the second is 0.
        """
        entropy, mean = [], []
        for view in encoded:
            assigned = self(view @ prototypes.T, epoch)  # [B, P]
            entropy.append(torch.special.entr(assigned).sum(-1).mean())
            mean.append(assigned.mean(0))
        whole = torch.stack(mean).mean(0)
        average(whole)
        return {
            "teacher_entropy": torch.stack(entropy).mean(),
            "teacher_entropy_of_mean": torch.special.entr(whole).sum(),
        }


def average(tensor: Tensor) -> None:
    """In place, over processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


def check_numbers(student_temperature: float, teacher_momentum: float, frozen: int, warmup: int) -> None:
    """Raises InputError for settings of DINO or iBOT that no run can work with."""
    if student_temperature <= 0:
        raise InputError(f"method.student_temperature must be above 0, got {student_temperature}")
    check_momentum(teacher_momentum)
    if frozen < 0 or warmup < 0:
        raise InputError(f"method.freeze_last_layer {frozen} and warmup_teacher_epochs {warmup} must be at least 0")


def cross_entropies(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    assignment: Assignment,
    epoch: float,
) -> Tensor:
    """Of every student view v to every teacher view t, ``[T, V, B]``, in as little memory as may be.

    CE = logsumexp(s) - <softmax(t), s>, so that there is one product for all pairs and one log-sum-exp per view, and no
    log-softmax of a combination.

    Args:
        student, prototypes: ``[V, B, D]`` and ``[P, D]``, the latter divided by the temperature.
        teacher, teacher_prototypes: ``[T, B, D]`` and ``[P, D]``.
    """
    step = images_at_once(student, len(student) * len(prototypes))
    parts = []
    images = zip(torch.split(student.transpose(0, 1), step), torch.split(teacher.transpose(0, 1), step), strict=True)
    for s, t in images:
        logits = s @ prototypes.T  # [b, V, P]
        assigned = assignment(t @ teacher_prototypes.T, epoch)  # [b, T, P]
        parts.append(all_pairs(logits, assigned))
    return torch.cat(parts).permute(1, 2, 0)


def all_pairs(logits: Tensor, assigned: Tensor) -> Tensor:
    """The cross-entropies of student logits ``[b, V, P]`` to distributions ``[b, T, P]``, ``[b, T, V]``."""
    return log_sum_exp(logits)[:, None] - assigned @ logits.mT


def log_sum_exp(x: Tensor) -> Tensor:
    """Over the last dimension. By the one fused kernel there is, in two thirds of torch.logsumexp's time on a CPU."""
    return x[..., 0] - x.log_softmax(-1)[..., 0]


def images_at_once(student: Tensor, logits: int) -> int:
    """For how many of the images of ``student [V, B, ...]`` to make logits at once, so many for each: all of them if
    the backward will need them."""
    batch = student.shape[1]
    limit = LOGITS.get(student.device.type, LOGITS_ELSEWHERE)
    return batch if student.requires_grad else max(1, limit // max(1, logits))


def drop_gradients(module: nn.Module, drop: bool) -> None:
    """Leaves the optimizer nothing of a module, so that not even weight decay and momenta act on it."""
    for parameter in module.parameters():
        parameter.grad = None if drop else parameter.grad


def encode(backbone: nn.Module, head: nn.Module, views: list[Tensor]) -> Tensor:
    """``[V, B, D]``: views of one size go through the backbone in one batch, all of them through the head in one."""
    features = [backbone(torch.cat(list(group))) for _, group in groupby(views, key=lambda view: view.shape)]
    return per_view(head(torch.cat(features)), len(views))
