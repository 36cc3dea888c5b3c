"""What is measured of the backbone while it is trained, by the first process; the others wait."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import nn

from hardviews.errors import InputError, RunError
from hardviews.training.memory import is_out_of_memory
from hardviews.training.run_folder import RunFolder

# A backbone, whether raw pixels are to be measured too, and what is called after every batch of images.
Evaluate = Callable[[nn.Module, bool, Callable[[int], None]], Mapping[str, float]]


class _StopAskedError(Exception):
    """Ends a measurement, which may take long, between two of its batches."""


@dataclass
class Monitor:
    """Measures before the first step, every ``every`` epochs and at the end, each once.

    Args:
        fabric: launched.
        folder: of the run, which says what has been measured.
        evaluated: the backbone to be measured; all processes have to ask for it.
        evaluate: measures the backbone, or None.
        say: told why it could not be measured.
        every: epochs; 0: never.
        epochs: of the run.
        steps_per_epoch: whole batches.
    """

    fabric: Fabric
    folder: RunFolder
    evaluated: Callable[[], nn.Module]
    evaluate: Evaluate | None
    say: Callable[[str], None]
    every: int
    epochs: int
    steps_per_epoch: int

    def due(self, done: int) -> bool:
        """Whether the run is to be looked at after so many steps."""
        epochs, within = divmod(done, self.steps_per_epoch)
        return bool(self.every) and not within and (epochs == self.epochs or epochs % self.every == 0)

    def measure(self, done: int, stop_asked: Callable[[], bool]) -> Mapping[str, float] | None:
        """Figures by name; None where there are no new ones, as when it was asked to stop on the way. What is missing
        is measured when the run goes on.

        Args:
            done: steps.
            stop_asked: looked at after every batch of images.

        Raises:
            InputError, RunError: before the first step, what is to be compared can't be; later that is said, and
                training goes on.
        """
        if self.evaluate is None:
            return None
        network = self.evaluated()  # by all, whatever it costs
        if not self.fabric.is_global_zero or self._measured(done):
            return None

        def heed(_: int) -> None:
            if stop_asked():
                raise _StopAskedError

        try:
            return self.evaluate(network, done == 0, heed)
        except _StopAskedError:
            pass
        except (InputError, RunError) as error:
            if not done:
                raise
            self._not_measured(done, str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._not_measured(done, f"out of memory on {self.fabric.device}")
        return None

    def _not_measured(self, done: int, reason: str) -> None:
        self.say(f"after {done} steps: not measured ({reason}); training goes on")

    def _measured(self, done: int) -> bool:
        return any(step == done for values in self.folder.evaluations().values() for step, _ in values)
