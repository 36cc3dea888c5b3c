"""A call in each of two processes, as under torchrun: both return together, also after a signal."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

SCRIPT = """
import os, signal, sys, torch
import hardviews
from tests.api.small import OPTIONS, Pictures

rank = int(os.environ["RANK"])
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))

class Stopping(Pictures):
    def __getitem__(self, index):
        if rank == 0 and self.reads == 136:
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(index)

def pretrain(data, **given):
    os.environ["MASTER_PORT"] = ports.pop()  # processes don't meet twice at one address
    return hardviews.pretrain(data, **given, **options)

ports = os.environ["PORTS"].split()
options = OPTIONS | {"accelerator": "cpu", "knn_epochs": 0, "in_memory": "off"}
print("steps", pretrain("shapes:32", epochs=1, out="whole").summary["steps"])
try:
    pretrain(Stopping(), epochs=9, out="stopped")
except hardviews.StoppedError as stopped:
    print(stopped)
print("default", callable(signal.getsignal(signal.SIGTERM)), torch.distributed.is_initialized())

def broken(*_):
    raise OSError("disk")
sys.modules["hardviews.runs.pretrain"].summarise = broken
try:
    print("returned", pretrain("shapes:32", epochs=1, out="broken").folder)
except OSError as error:
    print("raised", error)
try:
    hardviews.pretrain("shapes:32", epochs=1, out="more", **options)
except hardviews.InputError as error:
    print(error)
"""


def test_two_processes_return_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("localhost", 0))
        ports = " ".join(str(one.getsockname()[1]) for one in sockets)
    environment = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "PORTS": ports,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment | {"RANK": rank, "LOCAL_RANK": rank}, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=100) for process in started]
    finally:
        for process in started:
            process.kill()
    for (out, err), end in zip(texts, ("raised disk", "returned broken"), strict=True):
        lines = out.splitlines()
        assert lines[:2] == ["steps 2", "handled"], err
        assert "stopped by SIGTERM, saved after" in lines[2]
        assert lines[3:5] == ["default True False", end]
        assert "call torch.distributed.init_process_group() before the first" in lines[5]
