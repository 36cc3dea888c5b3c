"""How many processes run one command, and the rank of this one, from the environment."""

import os

from hardviews.errors import InputError

LAUNCHER = "HARDVIEWS_LAUNCHER"  # of the processes of `launcher.py`: a path in a folder that they share
INTERACTIVE = ("bash", "interactive")  # names of interactive Slurm jobs, the same as fabric's


def started(devices: int = 1, nodes: int = 1) -> tuple[int, int]:
    """Processes per machine, and machines: as started by torchrun, Slurm or ``launcher.py``, else as given.

    Raises:
        InputError: Slurm does not say how many tasks run on each machine.
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


def is_started() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "LOCAL_WORLD_SIZE" in os.environ or _tasks_of_slurm()


def rank() -> int:
    """The rank of this process; 0 if it is alone."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ["SLURM_PROCID"]) if _tasks_of_slurm() else 0


def _tasks_of_slurm() -> bool:
    """Whether srun has started this as one of several tasks. A single task may start processes itself."""
    started_by_srun = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    return (
        started_by_srun
        and int(os.environ.get("SLURM_NTASKS", "1")) > 1
        and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    )
