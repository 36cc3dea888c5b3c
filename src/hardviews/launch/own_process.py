"""A function in a process of its own, which gives its memory back.

Unlike ``multiprocessing`` with its method ``spawn``, this does not run the program's main file again, so a script needs
no ``__main__`` guard.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Modules are looked for as in this process, before any of them is imported.
CHILD = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from hardviews.launch.own_process import answer; answer(int(sys.argv[1]))"
)


class ProcessKilledError(RuntimeError):
    """The process ended without an answer."""


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """``function(*arguments)``, carried out by a new process.

    Args:
        function: of a module; it, its arguments and its result are pickled.

    Raises:
        ProcessKilledError: the process was killed, by the kernel for its memory, say.
        Exception: what the function raises.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as answers:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(writing)], stdin=subprocess.PIPE, pass_fds=(writing,)
            )
        finally:
            os.close(writing)
        assert process.stdin is not None
        try:
            with process.stdin as asked:
                asked.write(pickle.dumps(sys.path) + pickle.dumps((function, arguments)))
            answered = answers.read()
            process.wait()
        except BrokenPipeError:
            answered = b""
        finally:
            process.kill()  # if this process was interrupted
            process.wait()
    if not answered:
        raise ProcessKilledError(f"the process for {function.__name__} ended with exit code {process.returncode}")
    succeeded, result = pickle.loads(answered)
    if not succeeded:
        raise result
    found: Result = result
    return found


def answer(writing: int) -> None:
    """The new process's part."""
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        answered = pickle.dumps((True, function(*arguments)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        answered = pickle.dumps((False, error))
    with os.fdopen(writing, "wb") as answers:
        answers.write(answered)
