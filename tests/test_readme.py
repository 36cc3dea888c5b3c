"""Every command and code block of the README does what it says; the two make commands are run by CI itself."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hardviews.cli import main
from tests.data.test_scenes import write

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def pictures(folder: Path) -> None:
    """Stands for the reader's own pictures: two classes of 40."""
    import torch
    from PIL import Image

    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for index in range(40):
            noise = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(folder / label / f"{index}.jpg")


CODE = [text for language, text in BLOCKS if language == "python"]
OF_A_RUN = [code for code in CODE if "runs/first" in code]


@pytest.mark.parametrize("code", [code for code in CODE if code not in OF_A_RUN])
def test_code_blocks_run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In one process, which need not import torch for every one of them."""
    commands = [
        line
        for language, text in BLOCKS
        if not language
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("hardviews ")
    ]
    assert len(commands) >= 5
    monkeypatch.chdir(tmp_path)
    for name in ("PICTURES", "LABELLED", "LABELLED_TEST"):
        pictures(tmp_path / name)
    for split in ("train2017", "val2017"):
        write(tmp_path / "COCO", split)
    # What takes the reader hours is cut short here.
    short = {
        "hardviews pretrain --data PICTURES": " --image-size 32 --epochs 1 --batch-size 16 --workers 0",
        "hardviews compare --data PICTURES": " --image-size 32 --batch-size 16 --workers 0 --timed-steps 1",
        "hardviews evaluate RUN --data COCO --protocol detection": (
            " --detection.steps 1 --detection.min-size 64 --detection.width 16"
        ),
        "hardviews evaluate runs/first --data shapes:64 --protocol segmentation": " --segmentation.image-size 32",
    }
    for command in commands:
        extra = next((more for start, more in short.items() if command.startswith(start)), "")
        assert main(shlex.split(command + extra)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    assert (tmp_path / "RUN" / "summary.json").exists()
    for code in OF_A_RUN:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=tmp_path)
    docs = Path(__file__).parents[1] / "docs"
    for code in re.findall(r"^```python\n(.*?)^```", (docs / "telemetry.md").read_text(), re.MULTILINE | re.DOTALL):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=tmp_path)
    (command,) = re.findall(r"^hardviews .*", (docs / "extending.md").read_text(), re.MULTILINE)
    assert main(shlex.split(command.replace("--epochs 200", "--epochs 2"))[1:]) == 0, capsys.readouterr().err


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
