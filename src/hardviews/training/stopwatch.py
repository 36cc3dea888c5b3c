"""Measures the parts of a step without making the device wait."""

import time
from itertools import pairwise
from typing import Any

import torch


class Stopwatch:
    """Splits time into named parts. On CUDA it records events, which are read only in ``seconds``.

    Call ``start()`` before the first part and ``lap(part)`` at the end of each.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def _now(self) -> Any:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            return event
        return time.perf_counter()

    def start(self) -> None:
        self._marks = [("", self._now())]

    def lap(self, part: str) -> None:
        self._marks.append((part, self._now()))

    def marks(self) -> list[tuple[str, Any]]:
        """The laps so far, for ``seconds`` to read later."""
        return self._marks

    @staticmethod
    def seconds(marks: list[tuple[str, Any]]) -> dict[str, float]:
        """Seconds by part; on CUDA, waits for the last mark."""
        total: dict[str, float] = {}
        for (_, before), (part, after) in pairwise(marks):
            if isinstance(after, float):
                spent = after - before
            else:
                after.synchronize()
                spent = before.elapsed_time(after) / 1000
            total[part] = total.get(part, 0.0) + spent
        return total
