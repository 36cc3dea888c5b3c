"""The library in a notebook, in a script without a guard, and in one from standard input."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.api.small import NET

OPTIONS = f'method="simclr", backbone={NET}, image_size=32, batch_size=16, tensorboard=False, knn_epochs=0'
SCRIPT = f"""
import hardviews

first = hardviews.pretrain(data="shapes:32", epochs=1, workers=1, out="first", {OPTIONS})
second = hardviews.pretrain(data="shapes:32", epochs=1, workers=1, out="second", {OPTIONS})
print("steps", first.summary["steps"], second.summary["steps"], (first.metrics["loss"] == second.metrics["loss"]).all())
found = hardviews.evaluate(second, train="shapes:64", workers=1)
print("images", found["test_images"])
"""


def test_from_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-"], input=SCRIPT, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 2
    assert "steps 2 2 True" in done.stdout
    assert "images 12" in done.stdout


FIRST_CALL = f"""
import os, random, torch, torch._dynamo.config as compiling
import hardviews

def state():
    limits = [getattr(compiling, name, None) for name in ("recompile_limit", "cache_size_limit")]
    return random.getstate(), dict(os.environ), limits

before = state()
hardviews.pretrain("shapes:32", epochs=1, workers=0, out="run", quiet=True, {OPTIONS})
print([one == other for one, other in zip(before, state())])
"""


def test_the_first_call_leaves_the_process_as_it_was_too(tmp_path: Path) -> None:
    """Although it imports libraries that draw numbers and set variables and limits."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.endswith("[True, True, True]\n"), done.stderr


@pytest.mark.endure
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Neither for the loader's workers nor for the process that looks for the batch size, nor for comparisons."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import hardviews

print("once")
run = hardviews.pretrain("shapes:32", epochs=1, workers=1, out="auto", accelerator="cpu",
                         **dict({OPTIONS.replace("batch_size=16", 'batch_size="auto"')}))
print("batch of", run.folder.joinpath("config.yaml").read_text().partition("batch_size: ")[2].split()[0])
made = hardviews.compare("shapes:32", epochs=1, workers=1, out="compared", policies=["random"], seeds=1,
                         arms={{"all": {{"scoring": "exact"}}}}, protocols=["knn"], knn={{"k": 3}}, timed_steps=1,
                         equal_time=False, {OPTIONS})
print("rows", sorted({{row.arm for row in made.rows}}), made.failed)
"""
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("once") == 1
    assert "batch of 32" in done.stdout
    assert "rows ['all', 'random'] []" in done.stdout


CELLS = [
    "import hardviews\nfrom tests.api.small import OPTIONS, Pictures\n"
    "options = OPTIONS | {'knn_epochs': 0, 'in_memory': 'off', 'quiet': False}",
    "run = hardviews.pretrain('shapes:32', epochs=1, out='run', **options)\nrun.summary['steps']",
    # An interrupt from the notebook's menu is this signal.
    "pictures = Pictures()\npictures.interrupts_at = 136\nhardviews.pretrain(pictures, epochs=2, out='cut', **options)",
    "pictures.interrupts_at = 0\nhardviews.pretrain(pictures, epochs=2, out='cut', **options).summary['steps']",
    "len(run.metrics['loss'])",
    "hardviews.load(run).embed(pictures.pixels[:3]).shape",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    made: Any = nbformat.v4  # which has no types
    cells = [made.new_code_cell(code) for code in CELLS]
    cells[2].metadata.tags = ["raises-exception"]
    notebook = made.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()

    def text(cell: int) -> str:
        outputs = notebook.cells[cell].outputs
        return "".join(
            str(out.get("text", "")) + str(out.get("data", {}).get("text/plain", "")) + str(out.get("evalue", ""))
            for out in outputs
        )

    assert "epoch 1/1" in text(1)  # progress is shown there
    assert text(1).endswith("2")
    assert notebook.cells[2].outputs[-1].ename == "KeyboardInterrupt"
    assert "the same call with out=cut resumes" in text(2)
    assert "resuming at step" in text(3)
    assert text(3).endswith("8")
    assert text(4).endswith("2")
    assert "torch.Size([3, 16])" in text(5)
