"""The momentum teacher: a moving average of the student, without gradient."""

import math
from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hardviews.errors import InputError


class Teacher(nn.Module):
    """Copies of the student's networks under the given names (mean teacher, Tarvainen and Valpola, 2017).

    Dropout and drop-path are always off, because it stays in eval mode. Only its BN layers follow the mode and use
    batch statistics in training, as in DINO and BYOL.

    Args:
        networks: the student's networks, by the names of the copies.
    """

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        for name, network in deepcopy(networks).items():  # one deepcopy, so that networks keep sharing what they share
            self.add_module(name, network.requires_grad_(False))
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        super().train(False)
        for module in self.modules():
            if isinstance(module, _NormBase):
                module.train(mode)
        return self

    def uses_batch_statistics(self) -> bool:
        """Whether its output for an image depends on the other images of the batch."""
        return any(isinstance(module, _NormBase) and module.training for module in self.modules())

    @torch.no_grad()
    def follow(self, students: Iterable[nn.Module], momentum: float) -> None:
        """Updates every parameter: ``teacher = momentum · teacher + (1 - momentum) · student``.

        Args:
            students: the networks that were copied, in the same order.
            momentum: 1 changes nothing.
        """
        # Each shared parameter once; for sharded ones (DTensor), this process's shard.
        own, theirs = (
            [getattr(parameter, "_local_tensor", parameter) for parameter in networks.parameters()]
            for networks in (self, nn.ModuleList(students))
        )
        get_ema_multi_avg_fn(momentum)(own, theirs, 0)  # type: ignore[no-untyped-call]


class GramTeacher(Teacher):
    """A backbone at a moment of training, whose patches stay the model of others (DINOv3, section 4).

    Args:
        backbone: to copy.
        begun: whether the copy is that model already, and not only once it takes another backbone.
    """

    backbone: nn.Module
    begun: torch.Tensor  # saved with the weights

    def __init__(self, backbone: nn.Module, begun: bool) -> None:
        super().__init__(backbone=backbone)
        self.register_buffer("begun", torch.tensor(begun))
        self._seen = False  # whether ``begin`` has looked since the run began or resumed

    @torch.no_grad()
    def take(self, backbone: nn.Module) -> None:
        """Becomes a backbone."""
        self.follow([backbone], 0.0)
        self.begun.fill_(True)

    @torch.no_grad()
    def begin(self, backbone: nn.Module) -> None:
        """Becomes a backbone if it has not begun. The CPU does not wait for the device."""
        if not self._seen:
            for own, other in zip(self.backbone.parameters(), backbone.parameters(), strict=True):
                own.copy_(torch.where(self.begun, own, other))
            self.begun.fill_(True)
        self._seen = True


def check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise InputError(f"method.teacher_momentum is 0 to 1, not {momentum}")


def cosine_momentum(start: float, step: int, steps: int) -> float:
    """Momentum at a step: a half cosine from ``start`` to 1 (Grill et al., BYOL, 2020, section 3.2)."""
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2
