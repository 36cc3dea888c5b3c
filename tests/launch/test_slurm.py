"""Runs under a simulated Slurm, from the batch script that is shipped: stopped by its signal, and queued again."""

import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from hardviews.commands.pretrain import parse
from hardviews.telemetry import reading as telemetry
from tests.launch.slurm import EXAMPLE, REPOSITORY, installed
from tests.launch.test_processes import EXACT, LIMIT, alive, wait_for
from tests.runs.test_pretrain import VIT, rows, state

# On top of the script's recipe for DINO.
LINE = (
    f"{VIT.replace('shapes:32', 'shapes:320')} {EXACT} --epochs 2 --warmup-epochs 0 --telemetry 320 --tensorboard true "
    "--method tests.launch.slow_log.SlowLog"
)


def test_the_script_is_sound() -> None:
    script = EXAMPLE.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(EXAMPLE)], check=True)
    [command] = re.findall(r"hardviews pretrain (.*?[^\\])\n", script, re.DOTALL)
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if word != "$@"]
    options, _ = parse(words)
    assert options.method["name"] == "dino"
    wanted = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    assert options.batch_size % (int(wanted["nodes"]) * int(wanted["ntasks-per-node"])) == 0
    assert wanted["signal"] == "USR1@120"
    assert "#SBATCH --requeue" in script


@pytest.mark.fault("warning of Slurm that the time is nearly over", "saved; the job queues again and resumes")
@pytest.mark.endure
@pytest.mark.parametrize(("nodes", "per_node"), [(2, 1), (1, 2)])
def test_a_job_is_stopped_in_time_and_goes_on(nodes: int, per_node: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    slurm, run = tmp_path / "slurm", tmp_path / "run"
    environment = installed(slurm, nodes, per_node, port) | {
        "RUN": str(run),
        "DATA": "shapes:320",
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "src"))),
    }
    script = ["bash", str(EXAMPLE), *LINE.split()]
    job = subprocess.Popen(
        script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: (run / "metrics.csv").exists() or job.poll() is not None)
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    said, _ = job.communicate(timeout=LIMIT)
    assert job.returncode == 128 + signal.SIGUSR1, said
    assert said.count("stopped by SIGUSR1, saved after") == 1
    assert "2 x cpu" in said
    assert "Traceback" not in said
    assert (slurm / "scontrol.log").read_text() == "requeue 1234\n"
    done = state(run)["step"]
    assert len(rows(run)) == done < 40
    assert state(run)["processes"] == 2
    assert not alive("hardviews.cli", str(run))
    again = subprocess.run(
        script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {done} of 40" in again.stdout
    assert (slurm / "scontrol.log").read_text() == "requeue 1234\n"
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(40)]
    followed = telemetry.load(run)
    assert sorted(zip(followed["epoch"], followed["image"], strict=True)) == [
        (e, i) for e in (0, 1) for i in range(320)
    ]
