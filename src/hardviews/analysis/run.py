"""Reads a run folder: settings, metrics, measurements, telemetry. Missing parts are empty."""

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

PARTS = ("data", "render", "score", "train")  # of a step, in order


@dataclass(frozen=True, eq=False)
class Run:
    """The contents of a run folder.

    Args:
        folder: the run folder.
        name: the folder's name, or the shortest end of its path that is unique in a report.
        config: ``config.yaml``.
        metrics: columns of ``metrics.csv``, float64 ``[steps]``; NaN for empty cells.
        evaluations: name → (epochs done, value), oldest first, without non-finite values.
        results: lines of ``results.jsonl``.
        summary: ``summary.json``; None if the run has not ended.
        about: telemetry's description of itself; empty if there is none.
        telemetry: None if there is none; ``without`` says why.
        without: see ``telemetry``.
        tested_on: the test set of measurements during training, if the caller knows it.
        verdict: what training brought, and what to try; empty if that is not known.
        arm: its number among the arms of a report: runs that differ in their seed only are one arm.
        arm_name: the arm's name.
        method: its name as it is written (SimCLR), if the caller knows it.
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
    verdict: Sequence[str] = ()
    arm: int = 0
    arm_name: str = ""
    method: str = ""

    @property
    def steps(self) -> int:
        """Number of steps in the metrics."""
        return len(self.metrics.get("step", ()))

    @cached_property
    def steps_per_epoch(self) -> int:
        """From telemetry, or else from metrics, once they cover an epoch."""
        if "steps_per_epoch" in self.about:
            return int(self.about["steps_per_epoch"])
        return int(np.bincount(self.column("epoch").astype(int)).max()) if self.steps else 1

    @property
    def epochs(self) -> float:
        """Epochs done."""
        return self.steps / self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Seconds spent in steps, over all parts of an interrupted run, without measurements."""
        return sum(self.spent().values())

    @property
    def images(self) -> int | None:
        """Size of the data set; None if telemetry, which records it, is missing."""
        return self.about.get("images")

    @property
    def slots(self) -> list[dict[str, Any]]:
        """Kinds of views, from telemetry."""
        found: list[dict[str, Any]] = self.about.get("plan", {}).get("slots", [])
        return found

    def column(self, name: str) -> Array:
        """A column of ``metrics.csv``, ``[steps]``; NaN if there is no such column."""
        return self.metrics.get(name, np.full(self.steps, np.nan))

    def spent(self) -> dict[str, float]:
        """Seconds over all steps, by part."""
        return {part: float(np.nansum(self.column(f"seconds_{part}"))) for part in PARTS}

    def mean(self, name: str) -> float:
        """A column's mean over the steps that have a value; NaN if none has."""
        return mean(self.column(name))

    def by_epoch(self, name: str) -> tuple[Array, Array]:
        """Epochs, from 1, and a column's mean in each; leaves out epochs without any value."""
        values, epoch = self.column(name), self.column("epoch")
        known = np.isfinite(values)
        found = np.unique(epoch[known])
        return found + 1, np.array([values[known & (epoch == one)].mean() for one in found])

    def measured_on(self, first: bool = False) -> str:
        """The images of the last (or first) measurement during training, in words; empty if there is none."""
        epochs = [epoch for epoch, _ in self.evaluations.get("knn_top1", [])]
        wanted = next((epoch for epoch in (epochs if first else reversed(epochs)) if not (first and epoch)), None)
        # Measurements may differ in their columns, if later ones use other images.
        of = {name: dict(self.evaluations.get(name, [])) for name in SIZES}
        sizes = {name: values[wanted] for name, values in of.items() if wanted in values}
        return "" if wanted is None else describe_images(sizes, self.tested_on)

    def last(self, name: str) -> float | None:
        """The last measurement during training; a lone measurement before the first step does not count."""
        values = [value for epoch, value in self.evaluations.get(name, []) if epoch > 0]
        return values[-1] if values else None

    def first(self, name: str) -> float | None:
        """The measurement before the first step."""
        values = [value for epoch, value in self.evaluations.get(name, []) if epoch == 0]
        return values[0] if values else None


def measured_on(runs: Sequence[Run], first: bool = False) -> str:
    """The images of the last (or first) measurements during training, as the end of a sentence; named once if they are
    the same for all runs that have any."""
    found = {run.name: on for run in runs if (on := run.measured_on(first))}
    if len(set(found.values())) < 2:
        return "".join(f", on {on}" for on in dict.fromkeys(found.values()))
    return ", on " + "; ".join(f"{on} ({name})" for name, on in found.items())


def mean(values: Array) -> float:
    """The mean of the known values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def read(folder: Path, name: str | None = None) -> Run:
    """Reads a run folder, even of an interrupted run.

    Raises:
        InputError: it is no run folder, or one of its files is damaged.
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
        folder, name or folder.resolve().name, config, metrics, read_evaluations(folder),
        _results(folder / "results.jsonl"), summary if isinstance(summary, dict) else None, about, telemetry, without,
    )  # fmt: skip


def read_all(folders: Sequence[Path]) -> list[Run]:
    """Reads several runs, without repeats, under short unique names.

    Raises:
        InputError: as in ``read``.
    """
    once = list({folder.resolve(): folder for folder in folders}.values())
    return [read(folder, name) for folder, name in zip(once, short_names(once), strict=True)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest unique ends of paths: ``a/x/r`` and ``a/y/r`` become ``x/r`` and ``y/r``."""
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
        hint = f"; runs found in {folder}/{inside}; pass those folders" if inside else ""
        raise InputError(f"{folder} is not a run folder: {file} is missing{hint}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(config, dict) or not isinstance(config.get("method"), dict):
        raise InputError(f"{file} is damaged: it holds no settings of a run")
    return with_new_names(config)


def _rows(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, without a last row that a crash cut off."""
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


def read_evaluations(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Measurements of a run: by name (epochs done, value), oldest first, without non-finite values."""
    head, rows = _rows(folder / "evaluation.csv")
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
