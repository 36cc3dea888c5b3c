"""Every command and code block of the README and of the pages in docs/ does what it says. Blocks marked as text are
output, or need what CI does not have. The two make commands are run by CI itself; docs/python.md has its own test."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardviews.cli import main
from tests.data.test_scenes import write

ROOT = Path(__file__).parents[2]
# In the order of a reader, since later pages read what earlier ones made.
PAGES = [ROOT / "README.md", ROOT / "docs/first-run.md", *sorted((ROOT / "docs").glob("*.md"))]
# What takes the reader hours is cut short here.
SHORT = {
    "pretrain --data PICTURES": "--image-size 32 --epochs 1 --batch-size 16 --workers 0",
    "pretrain --data scans/": "--epochs 1 --batch-size 16 --workers 0",
    "pretrain --extend RUN": "--epochs 2",
    "compare --data PICTURES": "--image-size 32 --batch-size 16 --workers 0 --timed-steps 1",
    "evaluate RUN --data COCO": "--detection.steps 1 --detection.min-size 64 --detection.width 16",
    "evaluate runs/first --data shapes:64 --protocol segmentation": "--segmentation.image-size 32",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\S*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def pictures(folder: Path) -> None:
    """Stands for the reader's own pictures: two classes of 40."""
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for index in range(40):
            Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / label / f"{index}.jpg")


def scans(folder: Path) -> None:
    """Stands for X-rays: grey pictures of 12 bits."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(40):
        Image.fromarray(random.integers(0, 4096, (40, 48)).astype(np.uint16)).save(folder / f"{index}.png")


CODE = [text for page in PAGES if page.stem != "python" for language, text in blocks(page) if language == "python"]
OF_A_RUN = [code for code in CODE if "runs/first/" in code or '"runs/first")' in code]


@pytest.mark.parametrize("code", [code for code in CODE if code not in OF_A_RUN])
def test_code_runs(code: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=tmp_path)


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In one process, which need not import torch for every one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("PICTURES", "LABELLED", "LABELLED_TEST"):
        pictures(tmp_path / name)
    scans(tmp_path / "scans")
    for split in ("train2017", "val2017"):
        write(tmp_path / "COCO", split)
    (tmp_path / "package").mkdir()
    shutil.copy(ROOT / "examples/own_augmentation.py", tmp_path / "package/module.py")

    done = set()
    for page in PAGES:
        for text in (text for language, text in blocks(page) if not language):
            for line in text.replace("\\\n", " ").splitlines():
                command = " ".join(line.split())
                if not command.startswith("hardviews ") or command in done:
                    assert command.startswith(("hardviews ", "make ")), f"{page.name}: mark this block as text: {line}"
                    continue
                done.add(command)
                extra = next((more for start, more in SHORT.items() if command.startswith(f"hardviews {start}")), "")
                assert main(shlex.split(f"{command} {extra}")[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    assert len(done) >= 15
    assert (tmp_path / "RUN" / "summary.json").exists()
    for code in OF_A_RUN:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=tmp_path)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *ROOT.glob("benchmarks/*.md")])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(((?!\w+:|#)[^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
