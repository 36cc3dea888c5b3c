"""Signals that ask a run to save and leave: Ctrl-C, a scheduler's SIGTERM, Slurm's SIGUSR1 before it preempts, the
SIGHUP of a terminal that is closed (but for nohup's runs, which ignore it)."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """As a context, records the first signal instead of obeying it; the next one has its usual effect.

    Only the main thread of a process gets signals; in others nothing is recorded.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            noted = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def ignore_sigterm(self) -> None:
        """Ignores SIGTERM from now on, also after this context. A launcher sends it as soon as one process has left,
        and all must leave with the exit code that they agreed on, which a scheduler reads."""
        if threading.current_thread() is threading.main_thread():
            self._before.pop(signal.SIGTERM, None)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGHUP:
            _leave_terminal()
        self.__exit__(None, None, None)


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Puts the handlers of ``SIGNALS`` back on leaving, also that of SIGTERM after ``ignore_sigterm``."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that is not Python's can't be set from Python
                signal.signal(number, handler)


def _leave_terminal() -> None:
    """Redirects output to /dev/null: writing to a closed terminal is an error, and would keep the run from saving."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):  # isatty denies it by then
            os.dup2(nowhere, number)
    os.close(nowhere)
