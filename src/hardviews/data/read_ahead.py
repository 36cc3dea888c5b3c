"""Batches of whatever can be read by number, read ahead by threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Read = TypeVar("Read")


def batches(read: Callable[[int], Read], order: Sequence[int], size: int, threads: int = 0) -> Iterator[list[Read]]:
    """What ``read`` gives of the numbers in ``order``, ``size`` at once, the last part smaller.

    Threads read ahead, two batches at most; the order does not depend on them.
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
