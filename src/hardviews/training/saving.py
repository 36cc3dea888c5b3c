"""What a run is between two steps, put into checkpoints and taken back."""

from dataclasses import dataclass, field

from lightning_fabric import Fabric

from hardviews.training.checkpoint import Checkpoints
from hardviews.training.step import Step


class DivergedError(Exception):
    """Training can't go on from the weights as they are."""


@dataclass
class Saver:
    """Saves and restores weights, buffers, optimizer, scaler and the part of the learning rate that is left.

    Args:
        fabric: launched; only the first process writes.
        step: whose state.
        checkpoints: where to.
    """

    fabric: Fabric
    step: Step
    checkpoints: Checkpoints
    processes: int = field(default=0, init=False)  # that wrote what was restored; 0: nothing was, or it does not say
    factor: float = field(default=1.0, init=False)  # of the learning rates that were asked for
    failure: str = field(default="", init=False)  # why the newest state is in no checkpoint

    def restore(self) -> tuple[int, list[str]]:
        """Takes up the newest checkpoint that is whole.

        Returns:
            The step to go on with, 0 where there is no checkpoint, and a line for every one that was passed over.

        Raises:
            RunError: there are some, and none is whole.
        """
        state, damaged = self.checkpoints.newest()
        if state is not None:
            self.step.method.load_state_dict(state["method"])
            self.step.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
            self.lower(state["rate_factor"])
            self.processes = state.get("processes", 0)
        self.fabric.barrier()  # all have read what the first now puts aside
        if damaged and self.fabric.is_global_zero:
            self.checkpoints.set_aside()
        return int(state["step"]) if state else 0, damaged

    def save(self, done: int, epoch: int | None) -> None:
        """After ``done`` steps. Where it can't be written, ``failure`` says why, and what is there stays.

        Args:
            done: steps.
            epoch: keep it under this number for good.

        Raises:
            DivergedError: weights are not finite.
        """
        # The losses so far are known to be finite; what the last of them did to the weights is not.
        if not all(bool(parameter.isfinite().all()) for parameter in self.step.method.parameters()):
            raise DivergedError(f"step {done - 1}: weights are not finite")
        if self.fabric.is_global_zero:
            state = {
                "step": done,
                "method": self.step.method.state_dict(),
                "optimizer": self.step.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "rate_factor": self.factor,
                "processes": self.fabric.world_size,
            }
            try:
                self.checkpoints.save(state, epoch)
                self.failure = ""
            except OSError as error:
                self.failure = f"{self.checkpoints.last}: {error.strerror or error}"
        self.fabric.barrier()

    def lower(self, factor: float) -> None:
        """Learning rates at a part of what was asked for."""
        self.step.rates, self.factor = self.step.rates.scaled(factor / self.factor), factor

    def last_good(self) -> str:
        """For those who read that a run has ended."""
        file = self.checkpoints.last
        return f"the last good checkpoint is {file}" if file.exists() else "no checkpoint was written yet"
