"""A function in a process of its own."""

import os
import signal

import pytest

from hardviews.errors import InputError
from hardviews.launch.own_process import ProcessKilledError, in_own_process


def pid_and_sum(numbers: list[int]) -> tuple[int, int]:
    return os.getpid(), sum(numbers)


def refuse(line: str) -> None:
    raise InputError(line)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_is_another_process_and_answers() -> None:
    numbers = list(range(200_000))  # more than a pipe holds
    pid, total = in_own_process(pid_and_sum, numbers)
    assert pid != os.getpid()
    assert total == sum(numbers)


def test_what_it_raises_is_raised_here() -> None:
    with pytest.raises(InputError, match="no such thing") as error:
        in_own_process(refuse, "no such thing")
    assert "in refuse" in error.value.__notes__[0]  # where it happened


def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(ProcessKilledError, match="die ended with exit code -9"):
        in_own_process(die)
