"""What a person at a terminal of 80 or 140 columns reads: no line is cut, no word split, and the bar moves."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from hardviews.console import NARROWEST, show_table, wrapped
from hardviews.training.progress import BAR, ProgressReport

ROW = {"images_per_second": 12345.6, "loss": 4.5678, "iou_kept": 0.44, "iou_random": 0.5}
STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def at_a_terminal(columns: int, *argv: str) -> str:
    """What ``python -m hardviews`` writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "hardviews", *argv]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, env={**kept, "TERM": "xterm"}
    ):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 1 << 16):
                said += part
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
    return STYLES.sub("", said.decode())


@pytest.mark.parametrize("columns", [80, 140])
def test_a_run_is_read_at_a_terminal(columns: int, tmp_path: Path) -> None:
    line = "--data shapes:64 --image-size 24 --batch-size 16 --epochs 3 --workers 0 --tensorboard false --views 4"
    line += " --method simclr --backbone.name resnet18 --backbone.channels 8,8,8,8 --backbone.layers 1,1,1,1"
    said = at_a_terminal(columns, "pretrain", *line.split(), "--out", str(tmp_path / "run"))
    seen = [part for part in re.split(r"[\r\n]+", said) if part.strip()]
    path = str(tmp_path)
    assert all(len(part) <= columns or path in part for part in seen), max(seen, key=len)
    text = " ".join(part.strip() for part in seen)  # words as they were
    assert text.count("rank: how many directions the features use") == 1
    assert text.count("IoU: how much the kept views of an image overlap, 0 to 1, and random ones") == 1
    assert text.count("test images") == 2  # at the first measurement, and at the end
    assert "12 test images (the test split of shapes:64), by the 20 nearest of 64 training images" in text
    bars = [part for part in seen if part.startswith("epoch ")]
    assert bars
    for bar in bars:
        assert re.match(r"epoch \d/3 step +\d+/12 \S+ (\d:\d\d:\d\d|-:--:--) left", bar), bar
    assert "loss" in bars[-1]
    assert f"{'  trained':13}" in said
    error = at_a_terminal(columns, "pretrain", "--data", "shapes:64", "--policy", "hardets")
    assert max(map(len, error.splitlines())) <= columns


@pytest.mark.parametrize(("columns", "last"), [(60, "loss 4.568"), (80, "random 0.50"), (140, "12346 images/s")])
def test_the_bar_keeps_its_time_and_moves_with_every_step(columns: int, last: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, legacy_windows=False)
    progress = ProgressReport(console, 400, 10, 0, enabled=True)
    progress._bar.start()
    try:
        for done in range(1, 26):
            progress.move(done)
            if done % 10 == 0:
                progress.update(done, ROW)
            (task,) = progress._bar.tasks
            assert task.completed == done
        page = io.StringIO()
        Console(file=page, width=columns).print(progress._bar.get_renderable())
    finally:
        progress._bar.stop()
    text = page.getvalue().rstrip("\n")
    assert len(text) <= columns
    found = re.match(r"epoch 3/40 step  25/400 (.+) 0:00:\d\d left  (.+?) *$", text)
    assert found, text
    assert len(found[1].ljust(BAR)) >= BAR
    assert found[2].endswith(last)


def test_lines_end_between_words() -> None:
    text = (
        "  try --epochs 223, since 54 steps are few: /a/very-long/path-that-is/longer-than-any/line-may-be-at-all/x ok"
    )
    for width in (NARROWEST, 60, 79):
        lines = wrapped(text, width).splitlines()
        assert " ".join(line.strip() for line in lines) == text.strip()
        assert lines[0].startswith("  try")
        assert all(line.startswith("    ") for line in lines[1:])
        assert all(len(line) <= width or "/very-long/" in line for line in lines)
    assert wrapped(text, None) == wrapped(text, NARROWEST - 1) == text  # a pipe has no width
    assert wrapped("a\n\nb", 80) == "a\n\nb"


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "hardviews", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"hardviews \d+\.\d+\S*\n", done.stdout)
    wrong = subprocess.run([sys.executable, "-m", "hardviews", "trian"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "hardviews: error: unknown verb 'trian'; did you mean pretrain?\n")


HEAD = ["arm", "epochs", "seconds per epoch", "knn top1", "difference (95 %)", "linear top1"]
ROWS = [
    ["random", "2", "2.05", "25.00 ± 0.00", "", "24.17 ± 3.54"],
    ["hardest", "1 (equal time)", "4.79", "20.00 ± 4.71", "-5.00 (-47.35 to +37.35)", "21.67 ± 7.07"],
]


def shown(columns: int, terminal: bool = True) -> list[str]:
    page = io.StringIO()
    show_table(Console(file=page, width=columns, force_terminal=terminal, color_system=None), HEAD, ROWS, "a title")
    return STYLES.sub("", page.getvalue()).splitlines()


@pytest.mark.parametrize("columns", [80, 140])
def test_a_table_is_whole_or_a_block_for_every_row(columns: int) -> None:
    """Nothing is cut, at any width."""
    lines = shown(columns)
    assert lines[0] == "a title"
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "…" not in text
    assert all(cell in text for row in ROWS for cell in row)
    assert ("┃ arm" in text) is (columns == 140)
    if columns == 80:
        assert lines[1:5] == [
            "random", "  epochs             2", "  seconds per epoch  2.05", "  knn top1           25.00 ± 0.00",
        ]  # fmt: skip
        assert lines[-2] == "  difference (95 %)  -5.00 (-47.35 to +37.35)"
        assert text.count("difference") == 1  # the baseline has none
    assert "".join(shown(20, terminal=False)).count("┃") == len(HEAD) + 1  # a pipe has no width
