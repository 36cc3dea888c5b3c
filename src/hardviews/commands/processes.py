"""How many processes share a command, which of them this is, and how they part."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from hardviews.errors import InputError, PeerError, RunError, StoppedError
from hardviews.training.options import PretrainOptions
from hardviews.wording import several

LAUNCHER = "HARDVIEWS_LAUNCHER"  # of the processes of `launching.py`: a path in a folder that they share
PATIENCE = 5.0  # seconds for a process that has more to say, and until this one is ended with it
GLANCE = 0.5  # seconds between two looks at whether the parent still lives
INTERACTIVE = ("bash", "interactive")  # jobs of these names are somebody's shell, as fabric sees it too


def started(devices: int = 1, nodes: int = 1) -> tuple[int, int]:
    """Processes per machine and machines: as torchrun, Slurm or ``launching.py`` has started them, else as asked for.

    Raises:
        InputError: Slurm does not say how its tasks lie on the machines.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return devices, int(os.environ["WORLD_SIZE"]) // devices
    if not _tasks_of_slurm():
        return devices, nodes
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    if not per_node.isdigit():
        raise InputError("Slurm: SLURM_NTASKS_PER_NODE is not set; give sbatch or srun --ntasks-per-node")
    return int(per_node), int(os.environ["SLURM_NTASKS"]) // int(per_node)


def shared_by(options: PretrainOptions) -> tuple[int, int]:
    """Processes per machine and machines, once the batch is settled; raises as ``started`` and ``check_shares`` do."""
    devices, nodes = started(options.devices, options.nodes)
    check_shares(options, devices, nodes)
    return devices, nodes


def check_shares(options: PretrainOptions, devices: int, nodes: int) -> None:
    """Raises InputError where the images of a step can't be shared evenly, or there are not so many devices."""
    import torch

    from hardviews.training.precision import device_type

    available = torch.cuda.device_count() if device_type(options.accelerator) == "cuda" else devices
    if devices > available:
        raise InputError(f"devices: {devices} asked for, {available} available here")
    if min(devices, nodes, options.accumulate) < 1:
        raise InputError("devices, nodes and accumulate must be at least 1")
    shares = devices * nodes * options.accumulate
    if options.batch_size == "auto":  # it will be a number of whole shares
        return
    if options.images_per_step % shares:
        raise InputError(
            f"batch-size: {several(options.images_per_step, 'image')} can't be shared evenly by "
            f"{devices} x {nodes} devices in {several(options.accumulate, 'part')}"
        )


def is_started() -> bool:
    """Whether this is one of several processes that somebody else has started."""
    return "LOCAL_WORLD_SIZE" in os.environ or _tasks_of_slurm()


def number() -> int:
    """Of this process among all that share the command; 0 where it is alone."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ["SLURM_PROCID"]) if _tasks_of_slurm() else 0


def _tasks_of_slurm() -> bool:
    """One task is a process like any other, which may start more; and so is what srun has not started."""
    started_by_srun = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    return (
        started_by_srun
        and int(os.environ.get("SLURM_NTASKS", "1")) > 1
        and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    )


def end_with_parent() -> None:
    """Ends this process soon after the launcher or agent that started it, which can't end it itself when it is killed.
    Slurm does that for its tasks."""
    if LAUNCHER not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(GLANCE)
        os.kill(os.getpid(), signal.SIGKILL)  # it may be in the middle of a collective

    threading.Thread(target=watch, daemon=True).start()


def may_speak(error: BaseException) -> bool:
    """Whether this process is to say why it ends: what all have found is said once, what only follows from another's
    end not at all, but on other machines.

    Whoever started the processes ends all of them as soon as one has left, so those that have nothing to say wait.
    """
    if isinstance(error, StoppedError):
        if number():  # the first leaves at once
            time.sleep(1)
        return number() == 0
    if isinstance(error, PeerError):
        time.sleep(2 * PATIENCE)
    folder = os.environ.get(LAUNCHER) or os.environ.get("TORCHELASTIC_ERROR_FILE", "").rpartition("/")[0]
    if not folder:  # Slurm's tasks share none
        time.sleep(PATIENCE if number() else 0)
        return True
    try:
        (Path(folder).parent / "said").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(PATIENCE)
        return False
    except OSError:  # rather twice than never
        return True
    return True


@contextmanager
def together(going_on: Callable[[], str] = str) -> Generator[None, None, None]:
    """Tells the end or silence of another process from errors of this one.

    Args:
        going_on: says how the run goes on; asked where it ends.

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
        how = going_on()
        raise PeerError(f"{line}{'; ' if how else ''}{how} ({reason})") from error


def part_ways() -> None:
    """Ends what processes share, whose threads must not outlive the interpreter; nothing may be under way."""
    import torch

    if torch.distributed.is_initialized():
        # Once a collective is done, gloo's threads let go of its tensors, for which they need Python's lock. Whoever
        # frees the group meanwhile holds that lock, and waits for them for ever (seen with torch 2.6).
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
