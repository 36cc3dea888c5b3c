"""The examples run as a reader would run them, from a folder of their own, and leave nothing there."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "needs", "steps"),
    [("plain_torch.py", "torch", 10), ("lightly_lightning.py", "lightly lightning", 4)],
)
def test_example_runs(script: str, needs: str, steps: int, tmp_path: Path) -> None:
    for package in needs.split():
        if find_spec(package) is None:
            pytest.skip(f"{script} needs {package}, which is not installed")
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("step ")]
    assert len(losses) == steps
    assert all(-1 <= loss <= 1 for loss in losses)
    assert not list(tmp_path.iterdir())
