"""A run's folder: configuration, metrics, checkpoints, summary."""

import csv
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from hardviews.errors import InputError
from hardviews.options.old_names import with_new_names
from hardviews.training.output.checkpoint import Checkpoints
from hardviews.training.output.differences import differences, differences_text, plain, with_defaults

METRICS = (
    "step", "epoch", "loss", "lr", "lr_constant", "cost_kept", "cost_mean", "iou_kept", "iou_random",
    "skipped", "seconds_data", "seconds_render", "seconds_score", "seconds_train", "images_per_second", "memory",
)  # fmt: skip
# Settings of how a run is carried out, which do not change its result: a resumed run may change them.
FREE = {
    "out", "test_data", "recipe", "data_root", "download", "workers", "in_memory", "max_unreadable", "devices", "nodes",
    "strategy", "checkpoint_steps", "keep_epochs", "max_nonfinite_steps", "crop", "knn_epochs", "knn_bank", "knn_test",
    "knn_k", "knn_temperature", "log_steps", "tensorboard", "telemetry", "gallery", "wandb", "allow_pipe",
    "deterministic",
}  # fmt: skip
Listed = Literal["unreadable", "cut_short"]  # kinds of listed images, each in a file of this name


class RunFolder:
    """A run's folder: ``config.yaml``, ``metrics.csv``, ``evaluation.csv``, ``unreadable.csv``, ``cut_short.csv``,
    ``summary.json``, ``results.jsonl``, ``extension.json``, ``checkpoints/``, ``telemetry/``. Nothing
    is written before ``open``.

    Args:
        path: the folder; it may exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self._config_part = path / "config.part"
        self._now: Mapping[str, Any] = {}  # the configuration it was opened with
        self.metrics_file = path / "metrics.csv"
        self.evaluation_file = path / "evaluation.csv"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.summary_file = path / "summary.json"
        self.extension_file = path / "extension.json"
        self.results_file = path / "results.jsonl"
        self.telemetry = path / "telemetry"

    def check(self, config: Mapping[str, Any], bytes_needed: int) -> None:
        """Checks whether a run of this configuration can use the folder.

        Raises:
            InputError: the folder holds a run of another configuration or something else, can't be created, or its disk
                is too full.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"out: {self.path} is a file; give a folder")
        if self.config_file.exists():
            self._check_same(config)
        elif self.path.exists() and any(file != self._config_part for file in self.path.iterdir()):
            raise InputError(f"out: {self.path} holds other files and no run; give a new or empty folder")
        elif self.free() < bytes_needed:  # an existing run may resume even if its next checkpoint might not fit
            raise InputError(
                f"out: {self.existing()} has {self.free() / 2**20:.0f} MiB free, and this run's "
                f"checkpoints need {bytes_needed / 2**20:.0f} MiB; "
                "free some space or give another folder"
            )

    def existing(self) -> Path:
        """The folder, or its innermost existing parent."""
        return next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())

    def free(self) -> int:
        """Free bytes on the folder's disk."""
        return shutil.disk_usage(self.existing()).free

    def _check_same(self, config: Mapping[str, Any]) -> None:
        differing = differences(with_defaults(self.config(), config), plain(config), FREE)
        if differing:
            raise InputError(
                f"out: {self.path} holds a run of another configuration: {differences_text(differing)}; "
                f"give another folder, or continue from its weights by --extend {self.path} and another --out"
            )

    def open(self, config: Mapping[str, Any]) -> None:
        """Creates the folder and, for a new run, writes the configuration that reproduces it."""
        self._now = plain(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.config_file.exists():
                self._write_config(config)
            self.checkpoints.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"out: {self.path} can't be written: {error.strerror}") from error

    def update_config(self) -> None:
        """Writes the configuration if free settings have changed since the last write."""
        if self.config() != self._now:
            self._write_config(self._now)

    def _write_config(self, config: Mapping[str, Any]) -> None:
        header = "# hardviews pretrain --config THIS_FILE --out ANOTHER_FOLDER runs this again.\n"
        # Via a temporary file, since an incomplete one would look like a damaged run.
        self._config_part.write_text(header + yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
        with self._config_part.open("rb") as file:
            os.fsync(file.fileno())
        self._config_part.replace(self.config_file)

    def drop_after(self, step: int) -> None:
        """Drops metrics of steps from ``step`` on, since a run that resumes there logs them again."""
        for file in (self.metrics_file, self.evaluation_file):
            if file.exists():
                with file.open(newline="", encoding="utf-8") as opened:
                    head, *rows = list(csv.reader(opened)) or [[]]
                # A row that a crash cut off lacks columns.
                kept = [
                    row for row in rows if len(row) == len(head) and int(row[0]) < step + (file == self.evaluation_file)
                ]
                if kept == rows:
                    continue
                beside = file.with_suffix(".part")
                with beside.open("w", newline="", encoding="utf-8") as opened:
                    csv.writer(opened).writerows([head, *kept])
                beside.replace(file)

    def append_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Appends one row per step; the method's own metrics follow ``METRICS`` as further columns. An existing file,
        such as one of an earlier version, keeps its columns."""
        columns = self._columns(self.metrics_file) or [*METRICS, *sorted(rows[0].keys() - set(METRICS))]
        self._append(self.metrics_file, columns, [[_cell(row.get(key)) for key in columns] for row in rows])

    @staticmethod
    def _columns(file: Path) -> list[str]:
        if not file.exists():
            return []
        with file.open(newline="", encoding="utf-8") as opened:
            return next(csv.reader(opened), [])

    def append_evaluation(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Appends a measurement; ``step`` is the number of steps done before it."""
        rows = [[str(step), str(epoch), name, _cell(value)] for name, value in values.items()]
        self._append(self.evaluation_file, ("step", "epoch", "name", "value"), rows)

    def evaluations(self) -> dict[str, list[tuple[int, float]]]:
        """All measurements so far: (step, value) by name."""
        found: dict[str, list[tuple[int, float]]] = {}
        if self.evaluation_file.exists():
            with self.evaluation_file.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    found.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
        return found

    def summary(self) -> dict[str, float]:
        """The measurements before the first and after the last step (``knn_top1_untrained``, ``knn_top1``), and the
        number of steps, their seconds, and how many were skipped."""
        with self.metrics_file.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        done = int(rows[-1]["step"]) + 1 if rows else 0  # a full disk may have cost earlier rows
        summary: dict[str, float] = {}
        for name, values in self.evaluations().items():
            needs_none = name.endswith(("_pixels", "_chance"))
            if values[-1][0] == done or needs_none:  # otherwise the last one failed
                summary[name] = values[-1][1]
            if values[0][0] == 0 and not needs_none:
                summary[f"{name}_untrained"] = values[0][1]
        parts = [name for name in METRICS if name.startswith("seconds_")]
        seconds = sum(float(row[name] or 0) for row in rows for name in parts)
        return summary | {"steps": len(rows), "skipped": sum(row["skipped"] == "1" for row in rows), "seconds": seconds}

    def list_images(self, kind: Listed, found: Mapping[str, str], process: int = 0) -> None:
        """Appends images that were unreadable or cut short, with messages, unless listed before; one file per
        process."""
        if not found:
            return
        path = self.path / (f"{kind}.csv" if process == 0 else f"{kind}-{process}.csv")
        before: dict[str, str] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                before = {row["path"]: row["reason"] for row in csv.DictReader(file)}
        if before.keys() >= found.keys():
            return
        beside = path.with_suffix(".part")
        with beside.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "reason"), *sorted((before | dict(found)).items())])
        beside.replace(path)

    def listed(self, kind: Listed) -> int:
        """Number of images listed by ``list_images`` so far."""
        listed: set[str] = set()
        for path in self.path.glob(f"{kind}*.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                listed |= {row["path"] for row in csv.DictReader(file)}
        return len(listed)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write(self.summary_file, summary)

    def append_result(self, result: Mapping[str, Any]) -> None:
        """Appends one line per evaluation of the run: figures, data, and settings."""
        with self.results_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(result)) + "\n")

    def results(self) -> list[dict[str, Any]]:
        """All evaluations, oldest first; skips lines that were cut off."""
        if not self.results_file.exists():
            return []
        found = []
        for line in self.results_file.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def write_init(self, match: Mapping[str, Any]) -> None:
        """Writes which tensors of ``--init`` were ``matched``, ``missing`` or ``left``."""
        self._write(self.path / "init.json", match)

    def write_extension(self, record: Mapping[str, Any]) -> None:
        """Of a run that extends another: which, from which step on, and what has changed."""
        self._write(self.extension_file, record)

    def extension(self) -> dict[str, Any] | None:
        """What ``write_extension`` wrote; None where this run extends none.

        Raises:
            InputError: it is damaged.
        """
        if not self.extension_file.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(self.extension_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.extension_file} is damaged: {error}") from error
        return record

    def _write(self, file: Path, values: Mapping[str, Any]) -> None:
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(plain(values), indent=2) + "\n", encoding="utf-8")
        beside.replace(file)

    def config(self) -> dict[str, Any]:
        """The configuration of the run in this folder, with the settings' current names.

        Raises:
            InputError: there is none, or it is damaged.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path} is not a run folder: it has no config.yaml")
        try:
            loaded = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{self.config_file} is damaged: {' '.join(str(error).split())[:160]}") from error
        if not isinstance(loaded, dict) or not isinstance(loaded.get("backbone"), dict):
            raise InputError(f"{self.config_file} is damaged: it holds no settings of a run")
        return with_new_names(loaded)

    def _append(self, file: Path, head: Iterable[str], rows: list[list[str]]) -> None:
        """Appends all rows or, if the disk is full, none."""
        before = file.stat().st_size if file.exists() else 0
        try:
            with file.open("a", newline="", encoding="utf-8") as opened:
                csv.writer(opened).writerows(rows if before else [list(head), *rows])
        except OSError:
            with suppress(OSError):
                os.truncate(file, before)
            raise


def _cell(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.9g}"
