"""Worker processes that make batches in order. They ignore signals, and a dead or hung worker is noticed."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from hardviews.errors import RunError

Made = TypeVar("Made")

GLANCE = 5  # seconds between two checks while a batch is awaited
PATIENCE = 600  # seconds without a batch from any worker after which they count as hung
RESPITE = 60  # seconds that a worker lives on after the SIGTERM meant for its run
# Forked workers need no ``__main__`` guard in a script, and share the data set. Elsewhere forks are not safe.
CONTEXT = "fork" if sys.platform == "linux" else None


def until_failure(keys: Iterator[Any], failed: list[RunError]) -> Iterator[Any]:
    """Ends when the keys fail, and stores the error: a ``DataLoader`` would not end its workers well."""
    try:
        yield from keys
    except RunError as error:
        failed.append(error)


def by_workers(dataset: Dataset[Made], keys: Any, workers: int, pin_memory: bool = False) -> Iterator[Made]:
    """``dataset[key]`` for every key, in the order of the keys, from worker processes that are two keys ahead.

    A worker that dies or hangs is noticed when its batch is awaited.
    """
    watch = _Watch()
    loader: DataLoader[Made] = DataLoader(
        dataset,
        batch_size=None,
        sampler=watch.drawn(keys),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        timeout=GLANCE,
        worker_init_fn=_heed_no_signals,
        multiprocessing_context=CONTEXT if workers else None,
    )
    handler = signal.getsignal(signal.SIGCHLD)
    others = multiprocessing.active_children()
    loaded = iter(loader)
    watch.workers = [process for process in multiprocessing.active_children() if process not in others]
    if threading.current_thread() is threading.main_thread():
        # Torch's handler would raise wherever this process is when a worker dies, even in the middle of a step.
        signal.signal(signal.SIGCHLD, handler)
    watch.start()
    try:
        while True:
            try:
                watch.waiting = True
                item = next(loaded)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # OSError and EOFError: a worker dies while it hands over a batch.
                reason = str(error).splitlines()[0] if isinstance(error, RuntimeError) else "a worker has died"
                if watch.gave_up:
                    reason = f"no batch came for {PATIENCE} s"
                elif "timed out" in reason:
                    continue
                raise RunError(f"loading images failed: {reason} (memory, /dev/shm full, or a stuck disk?)") from error
            watch.waiting, watch.made = False, watch.made + 1
            yield item
    finally:
        del loaded  # ends the workers that respond
        watch.end()


class _Watch(threading.Thread):
    """Kills workers when no batch comes. A hung worker may respond to nothing else. Whoever waits for it, even in the
    middle of receiving a batch, then sees that it is dead."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.workers: list[BaseProcess] = []
        self.gave_up = False
        self.waiting, self.made = False, 0  # whether a batch is awaited; how many have come
        self._ended = threading.Event()

    def drawn(self, keys: Iterable[Any]) -> Iterator[Any]:
        """The keys. The time to draw one does not count as waiting for a worker: keys of a stream come from a network,
        which has its own timeouts."""
        upcoming = iter(keys)
        while True:
            self.waiting = False
            try:
                key = next(upcoming)
            except StopIteration:
                return
            self.waiting = True
            yield key

    def run(self) -> None:
        made, waited = 0, 0
        # It counts checks, not seconds: a program that was suspended for an hour did not wait.
        while not self._ended.wait(GLANCE):
            made, waited = self.made, waited + GLANCE if self.waiting and made == self.made else 0
            if waited >= PATIENCE:
                self.gave_up = True
                self._kill()
                return

    def end(self) -> None:
        self._ended.set()
        self._kill()

    def _kill(self) -> None:
        for process in self.workers:
            process.kill()


def _heed_no_signals(_: int) -> None:
    """Signals for a run reach all its processes, and a worker must not end before the run has saved.

    The first SIGTERM is meant for the run. The second comes from the run itself, when it ends its workers. If none
    comes, an alarm ends the worker.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(RESPITE)

    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)


def _as_it_is(item: Any) -> Any:
    return item
