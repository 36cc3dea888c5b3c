"""Items read ahead by threads: by number, or from an iterator."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar, cast

Read = TypeVar("Read")


def batches(read: Callable[[int], Read], order: Sequence[int], size: int, threads: int = 0) -> Iterator[list[Read]]:
    """Batches of ``read(number)`` for the numbers in ``order``, ``size`` each; the last one may be smaller.

    Threads read at most two batches ahead. The order does not depend on them.
    """
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = [[pool.submit(read, int(index)) for index in part] for part in parts[:2]]
        try:
            for place in range(len(parts)):
                if place + 2 < len(parts):
                    ahead.append([pool.submit(read, int(index)) for index in parts[place + 2]])
                yield [future.result() for future in ahead.pop(0)]
        finally:
            for future in (future for part in ahead for future in part):
                future.cancel()


def ahead(items: Iterator[Read], count: int) -> Iterator[Read]:
    """The same items, up to ``count`` of them taken ahead by a thread. Exceptions are raised here."""
    taken: Queue[tuple[Read | None, BaseException | None]] = Queue(count)
    over = Event()

    def put(item: Read | None, error: BaseException | None) -> None:
        while not over.is_set():
            with suppress(Full):
                taken.put((item, error), timeout=1)
                break

    def take() -> None:
        try:
            for item in items:
                put(item, None)
                if over.is_set():
                    break
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)
        finally:
            if isinstance(items, Generator):
                items.close()

    Thread(target=take, daemon=True).start()
    try:
        while True:
            item, error = taken.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast("Read", item)
    finally:
        over.set()
