"""Signals that are noted, obeyed, and no longer heeded."""

import os
import signal
from collections.abc import Iterator

import pytest

from hardviews.launch.signals import StopRequest, handlers_restored


@pytest.fixture(autouse=True)
def obeyed() -> Iterator[list[int]]:
    """The signals that are obeyed rather than noted."""
    found: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: found.append(number))
        for number in (signal.SIGTERM, signal.SIGUSR1)
    }
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_is_noted_and_the_second_obeyed(obeyed: list[int]) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (stop.signal, obeyed) == (signal.SIGUSR1, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.signal, obeyed) == (signal.SIGUSR1, [signal.SIGTERM])


@pytest.mark.parametrize("noted", [True, False])
def test_one_that_leaves_with_others_is_not_ended_by_the_first(noted: bool, obeyed: list[int]) -> None:
    """Whether it was itself asked to stop, or agreed with one that was: srun and torchrun send SIGTERM in both cases,
    and a job is queued again by the exit code of the other signal."""
    with StopRequest() as stop:
        if noted:
            os.kill(os.getpid(), signal.SIGUSR1)
        stop.ignore_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert obeyed == []


def test_a_call_puts_handlers_back_also_the_one_it_ignored(obeyed: list[int]) -> None:
    with handlers_restored(), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        stop.ignore_sigterm()
    assert (stop.signal, obeyed) == (signal.SIGUSR1, [])
    os.kill(os.getpid(), signal.SIGTERM)
    assert obeyed == [signal.SIGTERM]
