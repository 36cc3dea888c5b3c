"""A moving average of a method's weights, whose costs the policy ``learnable`` compares with."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hardviews.methods.base import Method


class Average(nn.Module):
    """Copy of a method whose weights follow: ``average = momentum · average + (1 - momentum) · method``. Buffers, such
    as a centre, are the method's.

    Nothing waits for the device, as torch's ``AveragedModel`` would. Its weights and the number of steps it has
    followed are all that it knows.

    Args:
        method: to copy.
        momentum: at least 0, below 1.
    """

    def __init__(self, method: Method[Any], momentum: float) -> None:
        super().__init__()
        self.method: Method[Any] = deepcopy(method).requires_grad_(False)
        self.momentum, self.steps = momentum, 0

    def begin(self, method: nn.Module) -> None:
        """Starts from the method's weights, which may have been loaded since it was copied, if it has not begun yet."""
        if not self.steps:
            self._move(method, 0.0)

    def follow(self, method: nn.Module) -> None:
        """Call it after every step of the optimizer."""
        self._move(method, self.momentum if self.steps else 0.0)
        self.steps += 1

    @torch.no_grad()
    def _move(self, method: nn.Module, momentum: float) -> None:
        get_ema_multi_avg_fn(momentum)(list(self.method.parameters()), list(method.parameters()), 0)  # type: ignore[no-untyped-call]
        if buffers := list(self.method.buffers()):
            torch._foreach_copy_(buffers, list(method.buffers()))

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state
