"""A run as its folder tells it: settings, metrics, measurements, telemetry; whatever is missing is empty."""

import csv
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hardviews.analysis.measured import SIZES, describe_images
from hardviews.errors import InputError
from hardviews.options.old_names import with_new_names
from hardviews.telemetry.reading import Array, Telemetry, load

PARTS = ("data", "render", "score", "train")  # of a step, in the order they are done


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind.

    Args:
        folder: where it lies.
        name: the folder's, or as much of its path as tells it from the other runs of a report.
        config: ``config.yaml``.
        metrics: columns of ``metrics.csv``, float64 ``[steps]``; NaN where a cell is empty.
        evaluations: name → (epochs done, value), oldest first; values that are no finite numbers are left out.
        results: lines of ``results.jsonl``.
        summary: ``summary.json``; None: the run has not ended.
        about: what telemetry says of itself; empty where there is none.
        telemetry: None where there is none, and ``without`` says why.
        without: see ``telemetry``.
        tested_on: the test set of measurements on the way, where the verb knows it.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    metrics: dict[str, Array]
    evaluations: dict[str, list[tuple[float, float]]]
    results: list[dict[str, Any]]
    summary: dict[str, Any] | None
    about: dict[str, Any]
    telemetry: Telemetry | None
    without: str = ""
    tested_on: str = "the run's test set"

    @property
    def steps(self) -> int:
        """Steps whose metrics were written."""
        return len(self.metrics.get("step", ()))

    @cached_property
    def steps_per_epoch(self) -> int:
        """As far as it can be told: telemetry knows it, metrics do once an epoch has ended."""
        if "steps_per_epoch" in self.about:
            return int(self.about["steps_per_epoch"])
        return int(np.bincount(self.column("epoch").astype(int)).max()) if self.steps else 1

    @property
    def epochs(self) -> float:
        """Epochs done."""
        return self.steps / self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Spent in steps, of all parts of a run that was interrupted; measurements on the way do not count."""
        return sum(self.spent().values())

    @property
    def images(self) -> int | None:
        """Of the data set; None where only telemetry could tell."""
        return self.about.get("images")

    @property
    def slots(self) -> list[dict[str, Any]]:
        """Kinds of views, as telemetry wrote them."""
        found: list[dict[str, Any]] = self.about.get("plan", {}).get("slots", [])
        return found

    def column(self, name: str) -> Array:
        """Of ``metrics.csv``, ``[steps]``; NaN where it has no such column."""
        return self.metrics.get(name, np.full(self.steps, np.nan))

    def spent(self) -> dict[str, float]:
        """Seconds of all steps, by part."""
        return {part: float(np.nansum(self.column(f"seconds_{part}"))) for part in PARTS}

    def mean(self, name: str) -> float:
        """A column's mean over the steps that have it; NaN where none has."""
        return mean(self.column(name))

    def by_epoch(self, name: str) -> tuple[Array, Array]:
        """Epochs, from 1, and a column's means in them; epochs without any value are left out."""
        values, epoch = self.column(name), self.column("epoch")
        known = np.isfinite(values)
        found = np.unique(epoch[known])
        return found + 1, np.array([values[known & (epoch == one)].mean() for one in found])

    def measured_on(self, first: bool = False) -> str:
        """The images of the last measurement on the way, or of the first, in words; empty where there is none."""
        epochs = [epoch for epoch, _ in self.evaluations.get("knn_top1", [])]
        wanted = next((epoch for epoch in (epochs if first else reversed(epochs)) if not (first and epoch)), None)
        # Not every measurement has all of them: later ones may be of other images.
        of = {name: dict(self.evaluations.get(name, [])) for name in SIZES}
        sizes = {name: values[wanted] for name, values in of.items() if wanted in values}
        return "" if wanted is None else describe_images(sizes, self.tested_on)

    def last(self, name: str) -> float | None:
        """What was measured last on the way; a method's only measurement before the first step does not count."""
        values = [value for epoch, value in self.evaluations.get(name, []) if epoch > 0]
        return values[-1] if values else None

    def first(self, name: str) -> float | None:
        """What was measured before the first step."""
        values = [value for epoch, value in self.evaluations.get(name, []) if epoch == 0]
        return values[0] if values else None


def measured_on(runs: Sequence[Run], first: bool = False) -> str:
    """The images of the last measurements on the way, or of the first, as the end of a sentence: once where they are
    the same for all runs that have any."""
    found = {run.name: on for run in runs if (on := run.measured_on(first))}
    if len(set(found.values())) < 2:
        return "".join(f", on {on}" for on in dict.fromkeys(found.values()))
    return ", on " + "; ".join(f"{on} ({name})" for name, on in found.items())


def mean(values: Array) -> float:
    """Of those that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def read(folder: Path, name: str | None = None) -> Run:
    """Reads a run folder, also one whose run was interrupted.

    Raises:
        InputError: it is no run folder, or a file of it is damaged.
    """
    config, metrics = _config(folder), read_metrics(folder / "metrics.csv")
    telemetry, without, about = None, "", {}
    try:
        telemetry = load(folder)
        about = json.loads((folder / "telemetry" / "about.json").read_text(encoding="utf-8"))
    except InputError as error:
        without = str(error)
    summary = None
    with suppress(OSError, ValueError):
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Run(
        folder, name or folder.resolve().name, config, metrics, _evaluations(folder / "evaluation.csv"),
        _results(folder / "results.jsonl"), summary if isinstance(summary, dict) else None, about, telemetry, without,
    )  # fmt: skip


def read_all(folders: Sequence[Path]) -> list[Run]:
    """Several runs, each once, named by what differs.

    Raises:
        InputError: see ``read``.
    """
    once = list({folder.resolve(): folder for folder in folders}.values())
    return [read(folder, name) for folder, name in zip(once, short_names(once), strict=True)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart: ``a/x/r`` and ``a/y/r`` are ``x/r``, ``y/r``."""
    parts = [folder.resolve().parts for folder in folders]

    def short(mine: tuple[str, ...]) -> str:
        lengths = range(1, len(mine) + 1)
        alone = (n for n in lengths if sum(other[-n:] == mine[-n:] for other in parts) == 1)
        return str(Path(*mine[-next(alone, len(mine)) :]))

    return [short(mine) for mine in parts]


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.yaml"
    if not file.is_file():
        inside = next((glob for glob in ("*/", "runs/*/") if any(folder.glob(f"{glob}config.yaml"))), None)
        hint = f"; its runs are {folder}/{inside}, the first that is given is compared with" if inside else ""
        raise InputError(f"{folder} is no run folder: {file} is missing{hint}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(config, dict) or not isinstance(config.get("method"), dict):
        raise InputError(f"{file} is damaged: it holds no settings of a run")
    return with_new_names(config)


def _rows(file: Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a CSV file; a row that a crash cut off is left out."""
    if not file.exists():
        return [], []
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            head, *rows = list(csv.reader(opened)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} can't be read: {' '.join(str(error).split())[:160]}") from error
    return head, [row for row in rows if len(row) == len(head)]


def read_metrics(file: Path) -> dict[str, Array]:
    """The columns of ``metrics.csv``, float64 ``[steps]`` each; NaN where a cell is empty."""
    head, rows = _rows(file)
    try:
        cells = np.array([[float(cell or "nan") for cell in row] for row in rows]).reshape(len(rows), len(head))
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    return dict(zip(head, cells.T, strict=True))


def _evaluations(file: Path) -> dict[str, list[tuple[float, float]]]:
    head, rows = _rows(file)
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        with suppress(KeyError, ValueError):
            if math.isfinite(value := float(cells["value"])):
                found.setdefault(cells["name"], []).append((float(cells["epoch"]), value))
    return found


def _results(file: Path) -> list[dict[str, Any]]:
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return [result for result in found if isinstance(result, dict)]
