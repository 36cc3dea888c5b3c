"""Lets the processes of a run agree during work in which they exchange nothing else."""

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

BEAT = 30.0  # seconds between two heartbeats during slow work
SLOW = 3600.0  # seconds of slow work after which the heartbeat stops, so that the other processes end


class StopAskedError(Exception):
    """A process was asked to stop. All processes raise this in the same round."""


class FailedError(Exception):
    """A process could not do its part. All processes raise this in the same round.

    Args:
        error: the error of the first process that failed, in that process; ``PeerError`` in all others.
        memory: whether it ran out of memory.
    """

    def __init__(self, error: Exception, memory: bool) -> None:
        super().__init__(str(error))
        self.error, self.memory = error, memory


@dataclass(frozen=True)
class Meeting:
    """Rounds in which all processes exchange whether they are working, have failed, or were asked to stop.

    A round is one collective of three numbers. All processes leave together, so no process misses a later collective.

    Args:
        fabric: launched.
        stop_asked: returns whether this process was asked to stop.
    """

    fabric: Fabric
    stop_asked: Callable[[], bool] = lambda: False

    def pause(self) -> None:
        """One round; call it after every piece of work.

        Raises:
            StopAskedError: a process was asked to stop.
            FailedError: another process has failed.
        """
        self._round(working=True)

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """Context for shared work. A process with less work, or none, waits at its end for the others.

        Raises:
            StopAskedError: a process was asked to stop; drop the work's result.
            FailedError: a process lacked data or memory. A process that raises another error must end.
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
    def slow_work(self, limit: float = SLOW) -> Generator[None, None, None]:
        """Context for work that may take longer than a collective's timeout, such as writing to a slow disk. A thread
        sends heartbeats; the processes leave together once all are done.

        An error leaves at once and must end the process, because the others do not hear of it.

        Raises:
            RunError: the work took longer than ``limit`` seconds.
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
        """One round; returns whether any process is still working."""
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
                error = PeerError(f"process {first} failed and prints the reason")
            raise FailedError(error, memory=bool(said[2] % 2))
        if said[0]:
            raise StopAskedError
        return bool(said[1])
