"""How the processes of one command end: with their parent, with one error message, and without hanging."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from hardviews.errors import InputError, PeerError, RunError, StoppedError
from hardviews.launch.environment import LAUNCHER, rank

PATIENCE = 5.0  # seconds that this process waits for another one to print its error
GLANCE = 0.5  # seconds between two looks at whether the parent still lives


def end_with_parent() -> None:
    """Starts a thread that kills this process when its parent has gone, since a launcher that is killed ends nothing.
    Slurm ends its tasks itself."""
    if LAUNCHER not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(GLANCE)
        os.kill(os.getpid(), signal.SIGKILL)  # it may be in the middle of a collective

    threading.Thread(target=watch, daemon=True).start()


def should_report(error: BaseException) -> bool:
    """Whether this process prints why it ends. The first failing rank prints its error and drops a marker file, so that
    other ranks on that machine do not repeat it.

    All processes are ended as soon as one has left, so a process that has nothing to print waits.
    """
    if isinstance(error, StoppedError):
        if rank():  # the first leaves at once
            time.sleep(1)
        return rank() == 0
    if isinstance(error, PeerError):
        time.sleep(2 * PATIENCE)
    folder = os.environ.get(LAUNCHER) or os.environ.get("TORCHELASTIC_ERROR_FILE", "").rpartition("/")[0]
    if not folder:  # Slurm's tasks share none
        time.sleep(PATIENCE if rank() else 0)
        return True
    try:
        (Path(folder).parent / "said").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(PATIENCE)
        return False
    except OSError:  # printing twice is better than not at all
        return True
    return True


@contextmanager
def peer_errors(how_to_resume: Callable[[], str] = str) -> Generator[None, None, None]:
    """Raises PeerError in place of what torch raises when another process is gone.

    Args:
        how_to_resume: says how to resume, which is added to the message; called when it is needed.

    Raises:
        PeerError: another process is gone, or does not answer.
    """
    import torch

    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:
        reason = str(error)
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in reason and "NCCL" not in reason:
            raise
        reason = " ".join(reason.split())[:160]
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            line = "another process gives no answer: it hangs, or its machine is gone"
        else:
            line = "the other processes can't be reached; if one of them has ended, what it said is why"
        how = how_to_resume()
        raise PeerError(f"{line}{'; ' if how else ''}{how} ({reason})") from error


def has_process_group() -> bool:
    """Whether torch's process group is there: one that a caller has made is theirs to end."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


_met: set[tuple[str | None, ...]] = set()  # addresses at which this process has met others


def meet_once(processes: int) -> None:
    """Call before several processes make torch's process group.

    Raises:
        InputError: they have met at this address before. There a second group may find the first one's keys, and hang.
    """
    address = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if processes == 1 or has_process_group():
        return
    if address in _met:
        raise InputError(
            "several calls in processes started together need one process group: call "
            "torch.distributed.init_process_group() before the first"
        )
    _met.add(address)


def destroy_process_group() -> None:
    """Destroys torch's process group, whose threads must not outlive the interpreter. No collective may be running."""
    import torch

    if torch.distributed.is_initialized():
        # After a collective, gloo's threads free its tensors, for which they need the GIL. Destroying the group
        # meanwhile holds the GIL and waits for these threads: a deadlock (seen with torch 2.6).
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
