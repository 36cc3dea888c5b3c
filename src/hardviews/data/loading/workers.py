"""Worker processes that make batches: in order, heeding no signals, and missed when they die or hang."""

import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from hardviews.errors import RunError

Made = TypeVar("Made")

GLANCE = 5  # seconds between two looks at workers that are waited for
PATIENCE = 600  # seconds without a batch from any worker after which they are taken for dead
RESPITE = 60  # seconds that a worker outlives the SIGTERM meant for its run


def until_failure(keys: Iterator[Any], failed: list[RunError]) -> Iterator[Any]:
    """Ends where the keys fail, which is noted: a ``DataLoader`` does not take down its workers well from within."""
    try:
        yield from keys
    except RunError as error:
        failed.append(error)


def by_workers(dataset: Dataset[Made], keys: Any, workers: int, pin_memory: bool = False) -> Iterator[Made]:
    """``dataset[key]`` for every key, in the order of the keys, from worker processes two keys ahead. That one of them
    has died, or hangs, is found when its batch is waited for."""
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
    )
    handler = signal.getsignal(signal.SIGCHLD)
    others = multiprocessing.active_children()
    loaded = iter(loader)
    watch.workers = [process for process in multiprocessing.active_children() if process not in others]
    if threading.current_thread() is threading.main_thread():
        # Torch's own would raise wherever this process is when a worker dies, be it in the middle of a step.
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
                # The latter two where it dies while it hands a batch over.
                reason = str(error).splitlines()[0] if isinstance(error, RuntimeError) else "a worker has died"
                if watch.gave_up:
                    reason = f"no batch came for {PATIENCE} s"
                elif "timed out" in reason:
                    continue
                raise RunError(f"loading images failed: {reason} (memory, /dev/shm full, or a stuck disk?)") from error
            watch.waiting, watch.made = False, watch.made + 1
            yield item
    finally:
        del loaded  # which ends those that can be ended
        watch.end()


class _Watch(threading.Thread):
    """Kills workers of which no batch comes. What they hang in may heed nothing else, and whoever waits for them, even
    in the middle of taking a batch over, then finds them dead."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.workers: list[BaseProcess] = []
        self.gave_up = False
        self.waiting, self.made = False, 0  # whether the next batch is waited for, and how many have come
        self._ended = threading.Event()

    def drawn(self, keys: Iterable[Any]) -> Iterator[Any]:
        """The keys, which are drawn while a batch is waited for: those of a stream come from a network, which has a
        patience of its own, and no worker is to blame."""
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
        # Glances are counted, not seconds: a program that was stopped for an hour has waited for nobody.
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
    """Signals meant for a run reach all its processes, and a worker must not fall before the run has saved. The second
    SIGTERM is that of the run itself, which is done with its workers; should none come, the worker does not stay."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(RESPITE)

    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)


def _as_it_is(item: Any) -> Any:
    return item
