"""Where the processes of a run agree, while each does work of its own that exchanges nothing."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from hardviews.errors import InputError, PeerError, RunError
from hardviews.training.memory import is_out_of_memory

BEAT = 30.0  # seconds between two signs of life during slow work
SLOW = 3600.0  # seconds of slow work after which a process gives no more signs, so that the others end


class StopAskedError(Exception):
    """A process was asked to stop. All processes raise this in the same round."""


class FailedError(Exception):
    """A process could not do its part. All processes raise this in the same round.

    Args:
        error: its error in the process that is to say why, the first that failed; ``PeerError`` in all others.
        memory: whether it ran out of memory.
    """

    def __init__(self, error: Exception, memory: bool) -> None:
        super().__init__(str(error))
        self.error, self.memory = error, memory


@dataclass(frozen=True)
class Meeting:
    """Rounds in which all processes tell each other whether they work, have failed, or were asked to stop.

    A round is one collective of three numbers. Nobody leaves work alone, so no collective after it is skipped by one
    process.

    Args:
        fabric: launched.
        stop_asked: whether this process was asked to stop.
    """

    fabric: Fabric
    stop_asked: Callable[[], bool] = lambda: False

    def pause(self) -> None:
        """One round in the middle of work; called after every piece of it.

        Raises:
            StopAskedError: a process was asked to stop.
            FailedError: another process has failed.
        """
        self._round(working=True)

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """Work that the processes share; one that has less of it, or none, waits here for the others.

        Raises:
            StopAskedError: a process was asked to stop; what was done is dropped.
            FailedError: a process lacked data or memory. Other errors have to end the process that raises them.
        """
        try:
            yield
        except (InputError, RuntimeError, MemoryError) as error:
            if isinstance(error, InputError | RunError) or is_out_of_memory(error):
                self._round(working=False, error=error)
            raise
        while self._round(working=False):
            pass

    @contextmanager
    def slowly(self, limit: float = SLOW) -> Generator[None, None, None]:
        """Work that may take longer than a collective waits, such as writing to a slow disk. A thread gives signs of
        life; all processes leave once all have done theirs.

        An error leaves at once, and has to end the process: the others are not told.

        Raises:
            RunError: it took longer than ``limit`` seconds.
        """
        if self.fabric.world_size == 1:
            yield
            return
        done, failed = Event(), Event()
        errors: list[BaseException] = []

        def beat() -> None:
            end = time.monotonic() + limit
            try:
                while True:
                    done.wait(BEAT)
                    if failed.is_set():
                        return
                    if not done.is_set() and time.monotonic() > end:
                        raise RunError(f"reading or writing took longer than {limit / 60:g} minutes: a stuck disk?")
                    if not self._round(working=not done.is_set()):
                        return
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            failed.set()
            raise
        finally:
            done.set()
        thread.join()
        if errors:
            raise errors[0]

    def _round(self, working: bool, error: Exception | None = None) -> bool:
        """Whether any process works on."""
        count, number = self.fabric.world_size, self.fabric.global_rank
        failing = 0 if error is None else 2 * (count - number) + is_out_of_memory(error)
        said = [int(self.stop_asked()), int(working), failing]
        if count > 1:
            largest = torch.tensor(said, device=self.fabric.device)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            said = largest.tolist()
        if said[2]:
            first = count - said[2] // 2
            if error is None or first != number:
                error = PeerError(f"process {first} could not go on, and says why")
            raise FailedError(error, memory=bool(said[2] % 2))
        if said[0]:
            raise StopAskedError
        return bool(said[1])
