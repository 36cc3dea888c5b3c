"""Measures the backbone during training, in all processes together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import nn

from hardviews.errors import PeerError
from hardviews.training.distributed.meeting import FailedError, Meeting, StopAskedError
from hardviews.training.output.run_folder import RunFolder
from hardviews.wording import several

# Takes a backbone, whether to measure raw pixels too, and the processes' meeting; returns figures in the first process.
Evaluate = Callable[[nn.Module, bool, Meeting], Mapping[str, float]]


@dataclass
class Monitor:
    """Measures before the first step, every ``every`` epochs and at the end, once each.

    Args:
        fabric: launched.
        folder: of the run; records what has been measured.
        evaluated: returns the backbone to measure; all processes must call it.
        evaluate: measures the backbone; None for no measurements.
        describe: formats figures and the images that they were measured on.
        say: prints why a measurement failed.
        every: epochs; 0 for never.
        epochs: of the run.
        steps_per_epoch: complete batches per epoch.
    """

    fabric: Fabric
    folder: RunFolder
    evaluated: Callable[[Meeting], nn.Module]
    evaluate: Evaluate | None
    describe: Callable[[Mapping[str, float]], str]
    say: Callable[[str], None]
    every: int
    epochs: int
    steps_per_epoch: int

    def due(self, done: int) -> bool:
        """Whether a measurement is due after so many steps."""
        epochs, within = divmod(done, self.steps_per_epoch)
        return bool(self.every) and not within and (epochs == self.epochs or epochs % self.every == 0)

    def measure(self, done: int, stop_asked: Callable[[], bool]) -> Mapping[str, float] | None:
        """Figures by name, in the first process; None if there are no new ones, for example because a process was asked
        to stop. Missing measurements are made when the run resumes.

        Args:
            done: steps done.
            stop_asked: called after every batch of images, by all processes in the same round.

        Raises:
            InputError, RunError: the measurement before the first step failed. Later failures are printed, and training
                resumes.
        """
        # The first process reads the folder for all, since others may see an older state of it, or none.
        measured = self.fabric.is_global_zero and self._measured(done)
        if self.evaluate is None or self.fabric.broadcast(measured):
            return None
        meeting = Meeting(self.fabric, stop_asked)
        try:
            return self.evaluate(self.evaluated(meeting), done == 0, meeting) or None
        except StopAskedError:
            return None
        except FailedError as failed:
            if not done and not failed.memory:
                raise failed.error from None
            if not isinstance(failed.error, PeerError):
                memory = f"out of memory on {self.fabric.device}"
                self._not_measured(done, memory if failed.memory else str(failed.error))
            return None

    def _not_measured(self, done: int, reason: str) -> None:
        who = f"process {self.fabric.global_rank}: " if self.fabric.global_rank else ""
        self.say(f"after {several(done, 'step')}: not measured ({who}{reason}); training continues")

    def _measured(self, done: int) -> bool:
        return any(step == done for values in self.folder.evaluations().values() for step, _ in values)
