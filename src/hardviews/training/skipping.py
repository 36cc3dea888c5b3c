"""One bad step must do no harm: where the loss, a gradient or a cost is not finite, nothing of the step is kept."""

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from hardviews.training.sharding import local


class Skipping:
    """Judges every step and undoes the bad ones. Only optimizers without a fused kernel (LARS, SGD of
    what is shared out among processes) wait for the device.

    What overflowed in forward has been written into running statistics and centres by the time it is noticed, so
    buffers are copied before the step, and put back after a bad one.

    Args:
        fabric: of the run.
        method: whose gradients and buffers.
        optimizer: as fabric returned it.
    """

    def __init__(self, fabric: Fabric, method: nn.Module, optimizer: Optimizer) -> None:
        self.fabric, self.method, self.optimizer = fabric, method, optimizer
        # Gradients of losses that a scaler has blown up may overflow: it skips those steps itself, and learns of it.
        self._scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        self._before: list[Tensor] = []

    def begin(self) -> None:
        self._before = [buffer.clone() for buffer in self._buffers()]

    def judge(self, figures: Iterable[Tensor]) -> Tensor:
        """Whether the step is bad on any process, float 0 or 1 on the device.

        Args:
            figures: losses, and costs of all candidates.
        """
        gradients = [local(p.grad) for p in self.method.parameters() if p.grad is not None and not self._scaled]
        norms = list(torch._foreach_norm(gradients)) if gradients else []
        sums = torch.stack([*norms, *(figure.detach().sum().float() for figure in figures)])
        bad: Tensor = self.fabric.all_reduce((~sums.isfinite().all()).float(), reduce_op="sum")  # type: ignore[assignment]
        return bad.clamp(max=1.0)

    def update(self, bad: Tensor) -> None:
        """The optimizer's step, if it is not bad."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        if getattr(inner, "_step_supports_amp_scaling", False):
            # What a scaler would tell the fused kernels, which then do nothing.
            inner.found_inf = bad  # type: ignore[union-attr]
        elif not self._scaled and bad.item():
            return
        self.optimizer.step()

    def end(self, bad: Tensor) -> None:
        for buffer, before in zip(self._buffers(), self._before, strict=True):
            buffer.copy_(torch.where(bad > 0, before, buffer))
        self._before = []

    def _buffers(self) -> list[Tensor]:
        return [buffer for buffer in self.method.buffers() if buffer.is_floating_point()]
