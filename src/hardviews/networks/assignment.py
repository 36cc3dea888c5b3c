"""Assignment of views and patches to prototypes by a teacher, and the student's cross-entropies to it (DINO, iBOT)."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.networks.heads import PrototypeHead

# Without gradient, logits are computed for as many images at once as give about this many numbers: 8 MB on a CPU, so
# that they stay in the cache, and 128 MB elsewhere. With gradient, the backward needs all logits anyway.
LOGITS = {"cpu": 2**21}
LOGITS_ELSEWHERE = 2**25

# A teacher's logits ``[..., P]`` and the epoch to probabilities: an ``Assignment``, or Sinkhorn's ``Codes``.
Assign = Callable[[Tensor, float], Tensor]


class Assignment(nn.Module):
    """Turns the teacher's logits into distributions over prototypes. Centring by a running mean prevents collapse onto
    one prototype; sharpening by a temperature prevents collapse onto the uniform distribution.

    Args:
        prototypes: P.
        momentum: of the running mean.
        temperature: of the softmax, after its warm-up.
        warmup_temperature: temperature at the start of the warm-up.
        warmup_epochs: length of the linear warm-up, which changes the temperature once per epoch.
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
        return warmed_up(epoch, self.start, self.end, self.warmup_epochs)

    def forward(self, logits: Tensor, epoch: float) -> Tensor:
        """Maps the teacher's logits ``[..., P]`` to probabilities."""
        centred: Tensor = logits - self.centre
        return (centred / self.temperature(epoch)).softmax(-1)

    @torch.no_grad()
    def move_centre(self, encoded: Tensor, head: PrototypeHead) -> None:
        """``centre = momentum · centre + (1 - momentum) · mean of the logits``, over the images of all processes.

        Args:
            encoded: ``[..., D]``, the teacher's; their mean logits are the logits of their mean.
            head: the teacher's.
        """
        mean = head.for_logits(1).logits(encoded.flatten(0, -2).mean(0))
        average(mean)
        self.centre.lerp_(mean, 1 - self.momentum)


def warmed_up(epoch: float, start: float, end: float, epochs: int) -> float:
    """A temperature that goes linearly from ``start`` to ``end`` in so many epochs, and changes once per epoch."""
    return end if epoch >= epochs else start + (end - start) * int(epoch) / max(1, epochs - 1)


@torch.no_grad()
def entropies(encoded: Tensor, head: PrototypeHead, assign: Assign, epoch: float) -> dict[str, Tensor]:
    """Entropies in nats of one image's distribution and of the mean distribution over images, ``encoded [T, B, D]``.

    They show both collapses: the first is log P if all prototypes are equally likely, the second 0 if one gets all
    images.
    """
    prototypes = head.for_logits(encoded[..., 0].numel())
    entropy, mean = [], []
    for view in encoded:
        assigned = assign(prototypes.logits(view), epoch)  # [B, P]
        entropy.append(torch.special.entr(assigned).sum(-1).mean())
        mean.append(assigned.mean(0))
    overall = torch.stack(mean).mean(0)
    average(overall)
    return {
        "teacher_entropy": torch.stack(entropy).mean(),
        "teacher_entropy_of_mean": torch.special.entr(overall).sum(),
    }


def average(tensor: Tensor) -> None:
    """Averages a tensor over processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


def cross_entropies(
    student: Tensor,
    head: PrototypeHead,
    teacher: Tensor,
    teacher_head: PrototypeHead,
    assign: Assign,
    epoch: float,
) -> Tensor:
    """Cross-entropy of every student view v to every teacher view t, ``[T, V, B]``, with little memory.

    CE = logsumexp(s) - <softmax(t), s>, so all pairs take one product, every view one log-sum-exp, and no pair a
    log-softmax.

    Args:
        student, head: ``[V, B, D]``, divided by the temperature, and the student's head.
        teacher, teacher_head: ``[T, B, D]``, and the teacher's head.
    """
    prototypes = head.for_logits(student[..., 0].numel())
    teacher_prototypes = teacher_head.for_logits(teacher[..., 0].numel())
    step = images_at_once(student, len(student) * len(prototypes))
    parts = []
    images = zip(torch.split(student.transpose(0, 1), step), torch.split(teacher.transpose(0, 1), step), strict=True)
    for s, t in images:
        logits = prototypes.logits(s)  # [b, V, P]
        assigned = assign(teacher_prototypes.logits(t), epoch)  # [b, T, P]
        parts.append(all_pairs(logits, assigned))
    return torch.cat(parts).permute(1, 2, 0)


def all_pairs(logits: Tensor, assigned: Tensor) -> Tensor:
    """The cross-entropies of student logits ``[b, V, P]`` to distributions ``[b, T, P]``, ``[b, T, V]``."""
    return log_sum_exp(logits)[:, None] - assigned @ logits.mT


def log_sum_exp(x: Tensor) -> Tensor:
    """Log-sum-exp over the last dimension by a fused kernel, in two thirds of torch.logsumexp's time on a CPU."""
    return x[..., 0] - x.log_softmax(-1)[..., 0]


def images_at_once(student: Tensor, logits: int) -> int:
    """Number of images of ``student [V, B, ...]`` whose logits to compute at once, with ``logits`` logits per image:
    all images if the backward will need them."""
    batch = student.shape[1]
    limit = LOGITS.get(student.device.type, LOGITS_ELSEWHERE)
    return batch if student.requires_grad else max(1, limit // max(1, logits))


def patch_cross_entropies(
    student: Tensor,
    head: PrototypeHead,
    teacher: Tensor,
    teacher_head: PrototypeHead,
    assign: Assign,
    epoch: float,
) -> Tensor:
    """Cross-entropy of every student patch to the same patch of the teacher, ``[T, B, M]``.

    Args:
        student, head: ``[T, B, M, D]``, divided by the temperature, and the student's head.
        teacher, teacher_head: ``[T, B, M, D]``, and the teacher's head.
    """
    prototypes = head.for_logits(student[..., 0].numel())
    teacher_prototypes = teacher_head.for_logits(teacher[..., 0].numel())
    step = images_at_once(student, student.shape[0] * student.shape[2] * len(prototypes))
    parts = []
    for s, t in zip(torch.split(student, step, dim=1), torch.split(teacher, step, dim=1), strict=True):
        logits = prototypes.logits(s)  # [T, b, M, P]
        assigned = assign(teacher_prototypes.logits(t), epoch)
        parts.append(log_sum_exp(logits) - (assigned * logits).sum(-1))
    return torch.cat(parts, dim=1)
