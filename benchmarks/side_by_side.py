"""What the benchmarks share: arguments, timing of several things in turn, and a table of ratios to one of them."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    return parser


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, with all it leaves to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def side_by_side(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every run, in turns, so that what else the machine does falls on all of them."""
    for run in runs.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return times


def ratios(times: Mapping[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Of every run the median seconds, and its ratio to the baseline within a turn: median, lowest, highest."""
    found = {}
    for name, values in times.items():
        turns = [value / base for value, base in zip(values, times[baseline], strict=True)]
        found[name] = {
            "seconds": median(values), "ratio": median(turns), "lowest": min(turns), "highest": max(turns)
        }  # fmt: skip
    return found


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table, its first column to the left and the others to the right."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(made)


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")
