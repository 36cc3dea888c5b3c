"""What is measured of the backbone while it is trained, by all processes together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import nn

from hardviews.errors import PeerError
from hardviews.training.distributed.meeting import FailedError, Meeting, StopAskedError
from hardviews.training.output.run_folder import RunFolder
from hardviews.wording import several

# A backbone, whether raw pixels are to be measured too, and where the processes that share the work meet; the first
# process gets the figures.
Evaluate = Callable[[nn.Module, bool, Meeting], Mapping[str, float]]


@dataclass
class Monitor:
    """Measures before the first step, every ``every`` epochs and at the end, each once.

    Args:
        fabric: launched.
        folder: of the run, which says what has been measured.
        evaluated: the backbone to be measured; all processes have to ask for it.
        evaluate: measures the backbone, or None.
        describe: figures in words, with the images that they are of.
        say: told why it could not be measured.
        every: epochs; 0: never.
        epochs: of the run.
        steps_per_epoch: whole batches.
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
        """Whether the run is to be looked at after so many steps."""
        epochs, within = divmod(done, self.steps_per_epoch)
        return bool(self.every) and not within and (epochs == self.epochs or epochs % self.every == 0)

    def measure(self, done: int, stop_asked: Callable[[], bool]) -> Mapping[str, float] | None:
        """Figures by name, in the first process; None where there are no new ones, as when a process was asked to stop
        on the way. What is missing is measured when the run goes on.

        Args:
            done: steps.
            stop_asked: looked at after every batch of images, by all processes in the same round.

        Raises:
            InputError, RunError: before the first step, what is to be compared can't be; later that is said, and
                training goes on.
        """
        # The first process reads the folder for all: others may see an older state of it, or none.
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
        self.say(f"after {several(done, 'step')}: not measured ({who}{reason}); training goes on")

    def _measured(self, done: int) -> bool:
        return any(step == done for values in self.folder.evaluations().values() for step, _ in values)
