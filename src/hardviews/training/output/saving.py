"""What a run is between two steps, put into checkpoints and taken back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews.errors import InputError, RunError
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.distributed.sharded_state import load_named_state, load_weights, named_state, own_part
from hardviews.training.distributed.sharding import local
from hardviews.training.output.checkpoint import Checkpoints
from hardviews.training.step import Step
from hardviews.wording import several


class DivergedError(Exception):
    """Training can't go on from the weights as they are."""


@dataclass
class Saver:
    """Saves and restores weights, buffers, optimizer, scaler, what the policy has learned, and the part of the learning
    rate that is left.

    Args:
        fabric: launched; only the first process writes, of a network that is shared out each its part.
        step: whose state.
        checkpoints: where to.
        data: what tells other images from these (``sources.fingerprint``).
    """

    fabric: Fabric
    step: Step
    checkpoints: Checkpoints
    data: str
    processes: int = field(default=0, init=False)  # that wrote what was restored; 0: nothing was, or it does not say
    factor: float = field(default=1.0, init=False)  # of the learning rates that were asked for
    failure: str = field(default="", init=False)  # why the newest state is in no checkpoint

    def restore(self) -> tuple[int, list[str]]:
        """Takes up the newest checkpoint that is whole and that all processes can read.

        Returns:
            The step to go on with, 0 where there is no checkpoint, and a line for every one that was passed over.

        Raises:
            InputError: it is of a run on other images, whose order and number a run hangs on.
            RunError: there are some, and none is whole.
        """
        state, damaged = self._newest()
        if state is not None:
            self._check_data(state.get("data", self.data))  # earlier ones don't say
            load_weights(self.step.method, state["method"])
            load_named_state(self.step.method, self.step.optimizer.optimizer, state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
            if self.step.policy is not None:
                self.step.policy.load_state_dict(state["policy"])
            self.lower(state["rate_factor"])
            self.processes = state.get("processes", 0)
        self.fabric.barrier()  # all have read what the first now puts aside
        if damaged and self.fabric.is_global_zero:
            self.checkpoints.set_aside()
        return int(state["step"]) if state else 0, damaged

    def _check_data(self, then: str) -> None:
        """Nobody leaves alone: some processes may find other data than others."""
        if self._any(then != self.data):
            before, now = (int(data.split()[0]) for data in (then, self.data))
            found = f"{now:,}" if now != before else "others of that number"
            raise InputError(
                f"data: this run began with {several(before, 'image')} and finds {found}; give back those "
                f"that it had, or begin another in another --out by --init {self.checkpoints.folder.parent}"
            )

    def _newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """As ``Checkpoints.newest``, the same in all processes: one that can't read what others can must not train from
        another step."""
        with Meeting(self.fabric).slowly():
            state, damaged, failure = self._read()
        own = int(state["step"]) if state else 0
        least: Tensor = self.fabric.all_reduce(torch.tensor(own), reduce_op="min")  # type: ignore[assignment]
        with Meeting(self.fabric).slowly():
            if not failure and own > least > 0:
                damaged = [f"{self.checkpoints.last}: another process can't read it"]
                state, _, failure = self._read(int(least))
                own = int(state["step"]) if state else 0
        if self._any(bool(failure) or own != least):
            raise RunError(
                failure
                or f"{self.checkpoints.folder}: no checkpoint is there that all processes can read; do all machines "
                "share this folder?"
            )
        return state, damaged

    def _read(self, at_most: int | None = None) -> tuple[dict[str, Any] | None, list[str], str]:
        """What this process finds, and why it can't be read: nobody leaves before all have told each other."""
        try:
            return *self.checkpoints.newest(at_most), ""
        except RunError as error:
            return None, [], str(error)

    def save(self, done: int, epoch: int | None) -> None:
        """After ``done`` steps. Where it can't be written, ``failure`` says why, and what is there stays.

        Args:
            done: steps.
            epoch: keep it under this number for good.

        Raises:
            DivergedError: weights are not finite.
        """
        # The losses so far are known to be finite; what the last of them did to the weights is not.
        bad = not all(bool(local(parameter).isfinite().all()) for parameter in self.step.method.parameters())
        if self._any(bad):
            raise DivergedError(f"step {done - 1}: weights are not finite")
        processes = self.fabric.world_size if self.step.sharded else 1
        label = f"step-{done:08d}" if epoch is None else f"epoch-{epoch:04d}"
        names = [f"{label}-{process}-of-{processes}.pt" for process in range(1, processes)]
        self.failure, first = "", self.fabric.is_global_zero
        if names:
            with Meeting(self.fabric).slowly():
                if not first:
                    part = names[self.fabric.global_rank - 1]
                    self._try(partial(self.checkpoints.save_part, self._state(done), part))
        if names and self._any(bool(self.failure)):
            self.failure = self.failure or f"{self.checkpoints.parts}: another process could not write its part"
            return
        with Meeting(self.fabric).slowly():  # which all leave together
            if first:
                self._try(partial(self.checkpoints.save, self._state(done) | {"parts": names}, epoch))

    def _state(self, done: int) -> dict[str, Any]:
        """What this process has to write."""
        method, first = self.step.method, self.fabric.is_global_zero
        optimizer = named_state(method, self.step.optimizer.optimizer)
        state = {
            "step": done,
            "method": own_part(method.state_dict(), all_of_it=first),
            "optimizer": {name: own_part(kept, all_of_it=first) for name, kept in optimizer.items()},
        }
        if first:
            state |= {
                "scaler": self.fabric.strategy.precision.state_dict(),
                "policy": {} if self.step.policy is None else self.step.policy.state_dict(),
                "rate_factor": self.factor,
                "processes": self.fabric.world_size,
                "data": self.data,
            }
        return state

    def _try(self, save: Callable[[], None]) -> None:
        try:
            save()
        except OSError as error:
            self.failure = f"{self.checkpoints.last}: {error.strerror or error}"

    def _any(self, mine: bool) -> bool:
        """Whether it is so in any process."""
        several: Tensor = self.fabric.all_reduce(torch.tensor(float(mine)), reduce_op="sum")  # type: ignore[assignment]
        return bool(several > 0)

    def lower(self, factor: float) -> None:
        """Learning rates at a part of what was asked for."""
        self.step.rates, self.factor = self.step.rates.scaled(factor / self.factor), factor

    def last_good(self) -> str:
        """For those who read that a run has ended."""
        file = self.checkpoints.last
        return f"the last good checkpoint is {file}" if file.exists() else "no checkpoint was written yet"
