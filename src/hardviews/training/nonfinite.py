"""Skips steps with a non-finite loss, cost or gradient: they change no weight, optimizer state or buffer."""

from collections.abc import Iterable, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from hardviews.training.distributed.sharding import local
from hardviews.training.optimizers import create_missing_momenta
from hardviews.training.packing import by_device_and_dtype, packed, unpack


class NonFiniteSteps:
    """Judges every step and undoes the bad ones. It alone decides, even under a gradient scaler.

    An overflow in the forward reaches running statistics and centres before it is noticed, so buffers are copied before
    the step and restored after a bad one. Fused optimizers skip the update themselves. Changes by other optimizers are
    undone from copies, like buffers. Nothing waits for the device.

    Args:
        fabric: of the run; only this class uses its scaler, if there is one.
        method: whose gradients and buffers to judge.
        optimizer: as returned by fabric.
        learners: modules whose buffers are restored too, such as a policy that learns.
    """

    def __init__(self, fabric: Fabric, method: nn.Module, optimizer: Optimizer, *learners: nn.Module) -> None:
        self.fabric, self.method, self.learners = fabric, method, learners
        self.optimizer: Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._scaler: torch.amp.GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
        self._buffers: Copies | None = None

    def begin(self) -> None:
        modules = [self.method, *self.learners]
        self._buffers = Copies([x for module in modules for x in module.buffers() if x.is_floating_point()])

    def judge(self, figures: Iterable[Tensor]) -> dict[str, Tensor]:
        """Unscales the gradients if there is a scaler, and judges the step.

        Args:
            figures: losses, and costs of all candidates.

        Returns:
            ``skipped``, and with a scaler ``overflowed``: float 0 or 1 on the device, the same on all processes. A step
            is skipped if anything is not finite on any process. It overflowed if only gradients are not finite, as
            happens until the scaler has found its scale.
        """
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        gradients = [local(p.grad) for p in self.method.parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients) if gradients else ()
        sums = [figure.detach().sum().float() for figure in figures]
        finite = torch.stack([*sums, *norms]).isfinite()
        bad = torch.stack([finite[: len(sums)].all(), finite[len(sums) :].all()]).logical_not().float()
        bad = self.fabric.all_reduce(bad, reduce_op="sum").clamp(max=1.0)  # type: ignore[union-attr]
        skipped = bad.amax()
        return {"skipped": skipped} | ({"overflowed": skipped - bad[0]} if self._scaler is not None else {})

    def update(self, skipped: Tensor) -> None:
        """Steps the optimizer, without effect if the step is skipped, then updates the scaler."""
        optimizer = self.optimizer
        create_missing_momenta(optimizer)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by fused kernels
            optimizer.step()
            del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = self._changing()
            copies = Copies(list(before.values()))
            optimizer.step()
            copies.restore(skipped)
            for key, new in self._changing().items():
                if key not in before:  # created by this very step: all states start at zero
                    new.masked_fill_(skipped.to(new.device) > 0, 0.0)
        if self._scaler is not None:
            self._scaler.update()

    def end(self, skipped: Tensor) -> None:
        assert self._buffers is not None
        self._buffers.restore(skipped)
        self._buffers = None

    def _changing(self) -> dict[tuple[Tensor, str], Tensor]:
        """Tensors that the optimizer's step changes: parameters with gradients, and their states."""
        moved = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        states = {
            (p, name): local(x) for p in moved for name, x in self.optimizer.state[p].items() if isinstance(x, Tensor)
        }
        return {(p, ""): local(p).detach() for p in moved} | states


class Copies:
    """Copies of tensors, to be restored if a flag on the device says so.

    All copies of one device and dtype share a buffer, so the number of kernels does not grow with the number of
    tensors.

    Args:
        tensors: in any memory format.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._groups = by_device_and_dtype(tensors)
        self._copies = [packed(group) for group in self._groups]

    @torch.no_grad()
    def restore(self, flag: Tensor) -> None:
        """Restores every tensor's content if ``flag`` is above 0."""
        for group, before in zip(self._groups, self._copies, strict=True):
            now = packed(group)
            torch.where(flag.to(now.device) > 0, before, now, out=now)
            unpack(now, group)
