"""``benchmarks/gpu.sh first``, rehearsed on a CPU, so that no minute on a GPU is lost to a typing error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


def first(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), "first", str(out), "--device", "cpu", "--small", *options],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        cwd=SCRIPT.parents[1], check=False,
    )  # fmt: skip


def test_a_part_of_it_runs(tmp_path: Path) -> None:
    done = first(tmp_path, "--parts", "throughput")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "== throughput: ok" in done.stdout
    assert (tmp_path / "first" / "throughput.json").is_file()


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = first(tmp_path, "--parts", "demo,speed")
    assert done.returncode == 2
    assert "no part speed; there are demo" in done.stderr


@pytest.mark.endure
def test_all_of_it_runs(tmp_path: Path) -> None:
    done = first(tmp_path)
    assert done.stdout.rstrip().endswith("all parts passed"), done.stdout + done.stderr
