"""Saves a run's state between two steps to checkpoints, and restores it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews.errors import InputError, RunError
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.distributed.sharded_state import load_named_state, load_weights, misfit, named_state, own_part
from hardviews.training.distributed.sharding import local
from hardviews.training.output.checkpoint import Checkpoints
from hardviews.training.step import Step
from hardviews.wording import several


class DivergedError(Exception):
    """Training can't continue from the current weights."""


@dataclass(frozen=True)
class Origin:
    """The run that a new one extends.

    Args:
        checkpoints: its own, which are only read.
        step: of the one that is taken.
        begin: the step that the new run begins with, which counts otherwise where an epoch has other steps.
    """

    checkpoints: Checkpoints
    step: int
    begin: int


@dataclass
class Saver:
    """Saves and restores weights, buffers, optimizer, scaler, what the policy learned, and the learning rate's factor.

    Args:
        fabric: launched. Only the first process writes; for a sharded network, every process writes its shards.
        step: whose state.
        checkpoints: where to save.
        data: identifies the images (``sources.fingerprint``).
        origin: the run that this one extends, until it has a checkpoint of its own.
    """

    fabric: Fabric
    step: Step
    checkpoints: Checkpoints
    data: str
    origin: Origin | None = None
    processes: int = field(default=0, init=False)  # that wrote the restored state; 0 if none or unknown
    factor: float = field(default=1.0, init=False)  # on the requested learning rates
    failure: str = field(default="", init=False)  # why the latest save failed

    def restore(self) -> tuple[int, list[str]]:
        """Restores the newest checkpoint that is intact and readable by all processes.

        Returns:
            The step to resume from (0 if there is no checkpoint), and a line for every checkpoint that was passed over.

        Raises:
            InputError: the run used other images, whose order and number determine it, or another network.
            RunError: there are checkpoints, and all are damaged.
        """
        state, damaged = self._newest(self.checkpoints)
        if state is None and self.origin is not None:
            return self._restore_origin(self.origin), damaged
        if state is not None:
            self._check_data(state.get("data", self.data))  # earlier versions don't record it
            if wrong := misfit(state["method"], self.step.method):
                raise InputError(
                    f"out: the weights of the run in {self.checkpoints.folder.parent} don't fit: {wrong}; give the "
                    "backbone and method that it began with, or another folder"
                )
            self._load(state)
            self.lower(state["rate_factor"])
            self.processes = state.get("processes", 0)
        self.fabric.barrier()  # all have read what the first process now moves away
        if damaged and self.fabric.is_global_zero:
            self.checkpoints.set_aside()
        return int(state["step"]) if state else 0, damaged

    def _load(self, state: dict[str, Any], learners: bool = True) -> None:
        load_weights(self.step.method, state["method"])
        load_named_state(self.step.method, self.step.optimizer.optimizer, state["optimizer"])
        if state["scaler"]:  # another precision has none
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        for name, module in self.step.learners.items() if learners else ():
            module.load_state_dict(state[name])

    def _restore_origin(self, origin: Origin) -> int:
        """Takes up the run that is extended, and saves that at once: from here on nobody needs the other run."""
        state, _ = self._newest(origin.checkpoints, origin.step)
        if self._any(state is None or state["step"] != origin.step):
            raise RunError(f"{origin.checkpoints.folder}: the checkpoint of step {origin.step} is gone")
        assert state is not None
        self._load(state, learners=False)  # they learned from that run's views, and begin anew
        self.save(origin.begin, None)
        return origin.begin

    def _check_data(self, then: str) -> None:
        """Raises in all processes together, since some may find other data than others."""
        if self._any(then != self.data):
            before, now = (int(data.split()[0]) for data in (then, self.data))
            found = f"{now:,}" if now != before else "others of that number"
            raise InputError(
                f"data: this run began with {several(before, 'image')} and finds {found}; restore the original images, "
                f"or continue with these in another --out by --extend {self.checkpoints.folder.parent}"
            )

    def _newest(self, checkpoints: Checkpoints, at_most: int | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        """Same as ``Checkpoints.newest``, but equal in all processes: all use a checkpoint that every process can read,
        or they would train from different steps."""
        with Meeting(self.fabric).slow_work():
            state, damaged, failure = self._read(checkpoints, at_most)
        own = int(state["step"]) if state else 0
        least: Tensor = self.fabric.all_reduce(torch.tensor(own), reduce_op="min")  # type: ignore[assignment]
        with Meeting(self.fabric).slow_work():
            if not failure and own > least > 0:
                damaged = [f"{checkpoints.last}: another process can't read it"]
                state, _, failure = self._read(checkpoints, int(least))
                own = int(state["step"]) if state else 0
        if self._any(bool(failure) or own != least):
            raise RunError(
                failure
                or f"{checkpoints.folder}: no checkpoint is readable by all processes; do all machines "
                "share this folder?"
            )
        return state, damaged

    @staticmethod
    def _read(checkpoints: Checkpoints, at_most: int | None) -> tuple[dict[str, Any] | None, list[str], str]:
        """The newest checkpoint for this process, and why it can't be read; raises only after all processes have
        reported."""
        try:
            return *checkpoints.newest(at_most), ""
        except RunError as error:
            return None, [], str(error)

    def save(self, done: int, epoch: int | None) -> None:
        """Saves the state after ``done`` steps. If that fails, ``failure`` says why, and existing checkpoints stay.

        Args:
            done: steps.
            epoch: also keep it permanently under this number.

        Raises:
            DivergedError: weights are not finite.
        """
        # The losses so far are finite, but the last update may have made weights non-finite.
        bad = not all(bool(local(parameter).isfinite().all()) for parameter in self.step.method.parameters())
        if self._any(bad):
            raise DivergedError(f"step {done - 1}: weights are not finite")
        processes = self.fabric.world_size if self.step.sharded else 1
        label = f"step-{done:08d}" if epoch is None else f"epoch-{epoch:04d}"
        names = [f"{label}-{process}-of-{processes}.pt" for process in range(1, processes)]
        self.failure, first = "", self.fabric.is_global_zero
        if names:
            with Meeting(self.fabric).slow_work():
                if not first:
                    part = names[self.fabric.global_rank - 1]
                    self._try(partial(self.checkpoints.save_part, self._state(done), part))
        if names and self._any(bool(self.failure)):
            self.failure = self.failure or f"{self.checkpoints.parts}: another process could not write its part"
            return
        with Meeting(self.fabric).slow_work():  # all processes leave it together
            if first:
                self._try(partial(self.checkpoints.save, self._state(done) | {"parts": names}, epoch))

    def _state(self, done: int) -> dict[str, Any]:
        """The state that this process writes."""
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
                "rate_factor": self.factor,
                "processes": self.fabric.world_size,
                "data": self.data,
            }
            state |= {name: module.state_dict() for name, module in self.step.learners.items()}
        return state

    def _try(self, save: Callable[[], None]) -> None:
        try:
            save()
        except OSError as error:
            self.failure = f"{self.checkpoints.last}: {error.strerror or error}"

    def _any(self, mine: bool) -> bool:
        """Whether this holds in any process."""
        several: Tensor = self.fabric.all_reduce(torch.tensor(float(mine)), reduce_op="sum")  # type: ignore[assignment]
        return bool(several > 0)

    def lower(self, factor: float) -> None:
        """Multiplies learning rates by a factor."""
        self.step.rates, self.factor = self.step.rates.scaled(factor / self.factor), factor

    def last_good(self) -> str:
        """The last good checkpoint, for a message that the run has ended."""
        file = self.checkpoints.last
        return f"the last good checkpoint is {file}" if file.exists() else "no checkpoint was written yet"
