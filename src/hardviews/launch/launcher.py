"""Starts the processes of a run on this machine, and sees to it that they end together.

Fabric would have process 0 start the others, and kills both without a word when one fails. Here, as with torchrun, the
process that was started by hand only watches: it hands signals on, ends all processes when one of them fails, and
leaves with that one's exit code.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hardviews.errors import InputError, RunError, StoppedError
from hardviews.launch.environment import LAUNCHER
from hardviews.launch.signals import StopRequest

GLANCE = 0.1  # seconds between two looks at the processes
LONG = 30.0  # seconds after which somebody who has asked to stop is told what is waited for
PATIENCE = 5.0  # seconds that processes have to leave when one has failed


def launch(argv: Sequence[str], devices: int, nodes: int, how_to_resume: Callable[[], str]) -> int:
    """Carries out a command line in ``devices`` processes here, of those on ``nodes`` machines.

    Args:
        argv: the command line, verb first.
        devices: processes to start here.
        nodes: machines.
        how_to_resume: says how to resume a run that had no time to say so itself.

    Returns:
        The exit code of the process that left first with another than 0, having said why; else 0.

    Raises:
        InputError: nothing says which machine this is, or where the first one is.
        RunError: a process was killed.
        StoppedError: this process was asked to stop before the others could heed it.
    """
    # Of Slurm's one task, several processes are made here.
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_NTASKS"}
    environment = {"OMP_NUM_THREADS": str(threads(devices))} | environment | meeting(devices, nodes)
    node = int(environment["NODE_RANK"])
    processes: list[subprocess.Popen[bytes]] = []
    with StopRequest() as stop, TemporaryDirectory(prefix="hardviews-") as folder:
        try:
            for local in range(devices):
                own = {"LOCAL_RANK": str(local), "RANK": str(node * devices + local), LAUNCHER: f"{folder}/{local}"}
                # Modules are looked for where this process looks for them: in this folder only if it was asked to.
                safe = [] if sys.path[0] in ("", str(Path.cwd())) else ["-P"]
                command = [sys.executable, *safe, "-m", "hardviews.cli", *argv]
                # In a group of its own: what a terminal or killpg sends to all would reach it twice.
                processes.append(subprocess.Popen(command, env=environment | own, process_group=0))
            failed = watch(processes, stop)
        except KeyboardInterrupt:  # the second
            raise KeyboardInterrupt(how_to_resume()) from None
        finally:
            end(processes)
    if failed is None:
        return 0
    if failed.returncode > 0:
        return failed.returncode
    name = signal.Signals(-failed.returncode).name
    if stop.signal and stop.signal == -failed.returncode:
        raise StoppedError(f"stopped by {name} before any training", stop.signal)
    number = node * devices + processes.index(failed)
    hung = ", as NCCL ends a process that waits for another which hangs" if name == "SIGABRT" else ""
    raise RunError(
        f"process {number} (pid {failed.pid}) was killed by {name}{hung}, and the others were ended; {how_to_resume()}"
    )


def threads(processes: int) -> int:
    """Threads of each of so many processes: an equal share of the cores that they may use, at least one.

    Each would take as many as there are cores, and all together would slow each other down. Loader's workers have one
    thread each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def watch(processes: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> subprocess.Popen[bytes] | None:
    """Waits until all have left, or one has failed, which is returned; hands on the signal that asks to stop."""
    asked, said = 0.0, False
    while True:
        codes = [process.poll() for process in processes]
        for process, code in zip(processes, codes, strict=True):
            if code:
                return process
        if None not in codes:
            return None
        if stop.signal and not asked:
            processes[0].send_signal(stop.signal)  # all agree to stop when they next exchange figures
            asked = time.monotonic()
        if asked and not said and time.monotonic() - asked > LONG:
            print(
                "hardviews: waiting for the processes to save; the same signal again ends them at once", file=sys.stderr
            )
            said = True
        time.sleep(GLANCE)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends those that are left."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def meeting(devices: int, nodes: int) -> dict[str, str]:
    """Where the processes meet and how many they are, in the words of torchrun."""
    if nodes == 1:
        with socket.create_server(("127.0.0.1", 0)) as opened:
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(opened.getsockname()[1]), "NODE_RANK": "0"}
    else:
        place = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")}
        missing = [name for name, value in place.items() if not value]
        if missing:
            raise InputError(
                f"nodes: {nodes} machines, but not {', '.join(missing)} in the environment; start it by "
                "torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine"
            )
    return place | {"LOCAL_WORLD_SIZE": str(devices), "WORLD_SIZE": str(devices * nodes)}
