"""Stands in for Slurm on this machine: commands of its names, which do what hardviews sees of it."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "slurm.sbatch"

# Starts the tasks of NODES machines with PER_NODE each, hands SIGUSR1 on to all, ends the others where one fails, and
# leaves with the largest of their codes, as srun does.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time
own = ("--kill-on-bad-exit", "--cpus-per-task")
command = [word for word in sys.argv[1:] if not word.startswith(own)]
nodes, per_node = int(os.environ["NODES"]), int(os.environ["PER_NODE"])
tasks = []
signal.signal(signal.SIGUSR1, lambda number, _: [task.send_signal(number) for task in tasks])
for task in range(nodes * per_node):
    node, local = divmod(task, per_node)
    told = {{"PROCID": task, "LOCALID": local, "NODEID": node, "NTASKS": nodes * per_node, "NNODES": nodes,
             "NTASKS_PER_NODE": per_node, "STEP_ID": 0, "NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1"}}
    environment = os.environ | {{"SLURM_" + name: str(value) for name, value in told.items()}}
    tasks.append(subprocess.Popen(command, env=environment))
with open("srun.pid", "w") as file:
    file.write(str(os.getpid()))
ended = False
while None in [task.poll() for task in tasks]:
    if any(task.returncode for task in tasks) and not ended:
        ended = [task.terminate() for task in tasks]
    time.sleep(0.05)
sys.exit(max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks)))
"""


def installed(folder: Path, nodes: int, per_node: int, port: int, job: str = "1234") -> dict[str, str]:
    """The environment of a batch script, with ``srun``, ``scontrol`` and ``hardviews`` on its path."""
    folder.mkdir(parents=True)
    commands = {
        "srun": SRUN,
        "scontrol": f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n',
        "hardviews": f'#!/bin/sh\nexec {sys.executable} -m hardviews.cli "$@"\n',
    }
    for name, script in commands.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    job_variables = {"SLURM_JOB_ID": job, "SLURM_JOB_NAME": "hardviews", "MASTER_PORT": str(port)}
    sizes = {"NODES": str(nodes), "PER_NODE": str(per_node)}
    return os.environ | job_variables | sizes | {"PATH": f"{folder}:{os.environ['PATH']}"}
