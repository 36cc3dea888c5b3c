"""Tables that compare runs: key figures, properties and results, as text and as raw numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from hardviews.analysis.arms import CARRIED_OUT, settings
from hardviews.analysis.choices import SelectingRun
from hardviews.analysis.figure import number
from hardviews.analysis.measured import SIZES, test_set
from hardviews.analysis.run import Run, measured_on
from hardviews.wording import several

# Settings chosen by a protocol and properties of a measurement: no results.
NO_RESULTS = ("_rate", "_c", "_images")
FACTS = {
    "train_images", "test_images", "test_images_in_train", "test_images_compared", "unreadable", "train_unreadable",
    "test_unreadable", "seed", "step", "image_size", "blocks", "crop",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A number as displayed (``text``) and as a value (``raw``, None if unknown)."""

    text: str
    raw: float | None = None
    change: str = ""


@dataclass(frozen=True)
class KeyFigure:
    """A key figure with its value for every run.

    Args:
        name: for programs that read the page.
        title: for human readers.
        note: explains it.
        values: one per run.
    """

    name: str
    title: str
    note: str
    values: list[Value]


def key_figures(runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> list[KeyFigure]:
    """The most important figures; leaves out those that no run has."""
    by_place = {one.place: one for one in selecting}

    def share(run: Run) -> float:
        return run.spent()["score"] / run.seconds if run.seconds else float("nan")

    lowest = [
        by_place[place].mean("lowest_iou_kept") if place in by_place else float("nan") for place in range(len(runs))
    ]
    chance = [
        by_place[place].mean("lowest_iou_random") if place in by_place else float("nan") for place in range(len(runs))
    ]
    last, first = measured_on(runs), measured_on(runs, first=True)
    rows: list[tuple[str, str, str, Sequence[float | None]]] = [
        ("knn_top1", "kNN accuracy, trained", f"last measurement{last}", [run.last("knn_top1") for run in runs]),
        ("knn_top1_untrained", "kNN, untrained", f"before training{first}", [run.first("knn_top1") for run in runs]),
        ("knn_top1_pixels", "kNN, raw pixels", f"without any network{first}",
         [run.first("knn_top1_pixels") for run in runs]),
        ("knn_top1_chance", "kNN, chance", "always naming the most frequent class",
         [run.first("knn_top1_chance") for run in runs]),
        ("iou_kept", "IoU of kept views", "mean over all steps", [run.mean("iou_kept") for run in runs]),
        ("iou_random", "IoU of random views", "for a random choice", [run.mean("iou_random") for run in runs]),
        ("lowest_iou_kept", "Kept views have the lowest IoU", "of the followed pictures", lowest),
        ("lowest_iou_random", "Lowest IoU by chance", "for a random choice", chance),
        ("seconds", "Training time", "without measurements", [run.seconds if run.steps else None for run in runs]),
        ("share_score", "Time spent on scoring", "of the time of all steps", [share(run) for run in runs]),
    ]  # fmt: skip
    found = []
    for name, title, note, values in rows:
        if name.startswith(("iou_", "share_")) and not any(map(selects, runs)):
            continue
        known = [None if value is None or not np.isfinite(value) else float(value) for value in values]
        if any(value is not None for value in known):
            found.append(KeyFigure(name, title, note, [Value(_shown(name, value), value) for value in known]))
    return found


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "seconds":
        return duration(value)
    return f"{value:.2f}" if name.startswith("iou_") else number(value, True)


def duration(seconds: float) -> str:
    """Formats a duration: ``45 s``, ``32 min 26 s``, ``5 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def properties(run: Run) -> list[tuple[str, str]]:
    """What ran, on which data, for how long: (title, text)."""
    config = run.config
    backbone = config.get("backbone") or {}
    summary = run.summary or {}
    images = run.images
    followed = len(np.unique(run.telemetry["image"])) if run.telemetry is not None else 0
    planned = config.get("epochs")
    done = f"{number(run.epochs)} of {planned}" if planned != run.epochs else f"{planned}"
    state = "finished" if run.summary is not None else "unfinished or interrupted: no summary.json"
    versions = summary.get("versions") or {}
    batch = config.get("batch_size")
    pictures = several(batch, "picture") if isinstance(batch, int) else "pictures"
    rows = [
        ("Method", config["method"].get("name")),
        ("Backbone", backbone.get("name") if isinstance(backbone, dict) else backbone),
        ("Data", config.get("data")),
        ("Pictures", describe_pictures(images, followed)),
        ("Size of views", describe_size(config)),
        ("Views", describe_views(run)),
        ("Policy", config.get("policy") if selects(run) else None),
        ("Scored", describe_scored(config) if was_scored(run) else None),
        ("Epochs", f"{done} ({several(run.steps, 'step')} of {pictures})"),
        ("State", state),
        ("Time in steps", duration(run.seconds) if run.seconds else None),
        ("Precision", f"{config.get('precision')} on {config.get('accelerator')}"),
        ("Seed", config.get("seed")),
        ("Machine", summary.get("machine")),
        ("Versions", ", ".join(f"{name} {one}" for name, one in versions.items() if name in ("hardviews", "torch"))),
        ("Commit", (summary.get("git_commit") or "")[:12]),
        ("Folder", str(run.folder)),
    ]
    return [(title, str(text)) for title, text in rows if text not in (None, "")]


def properties_of_all(runs: Sequence[Run]) -> list[list[str]]:
    """One row per property that any run has: its title, and its text for every run."""
    found = [dict(properties(run)) for run in runs]
    titles = list(dict.fromkeys(title for one in found for title in one))
    return [[title, *(one.get(title, "–") for one in found)] for title in titles]


def describe_size(config: dict[str, Any]) -> str | None:
    """The side of views: ``64 px, in the first 75% of the steps 50% of that``."""
    size, small = config.get("image_size"), config.get("train_resolution", 1)
    if not size or not _number(small) or small == 1:
        return f"{size} px" if size else None
    return f"{size} px, in the first {config['full_resolution_from']:.0%} of the steps {small:.0%} of that"


def selects(run: Run) -> bool:
    """Whether views were selected, as far as is known."""
    return not run.slots or any(slot["draw"] != slot["keep"] for slot in run.slots)


def describe_views(run: Run) -> str | None:
    """How many views are drawn and kept: ``2+2+8 drawn, 1+1+4 kept``."""
    views = run.config.get("views")
    if run.slots:
        counts = ["+".join(str(slot[way]) for slot in run.slots) for way in ("draw", "keep")]
        return f"{counts[0]} drawn, {counts[1]} kept" if counts[0] != counts[1] else f"{counts[0]}, no selection"
    listed = views if isinstance(views, list) else [views] if views else []
    return f"{'+'.join(map(str, listed))} drawn" if listed else None


def describe_pictures(images: int | None, followed: int) -> str | None:
    """How many pictures there are, and how many telemetry followed."""
    if images is None:
        return None
    return f"{images:,}, all of them followed" if followed >= images else f"{images:,}, {followed:,} of them followed"


def was_scored(run: Run) -> bool:
    """Whether any candidates were scored."""
    noted = run.telemetry is not None and bool(run.telemetry["scored"].any())
    return noted or bool(np.isfinite(run.mean("cost_mean")))


def describe_scored(config: dict[str, Any]) -> str | None:
    """How candidates are scored: ``at full size``, ``at 50% of the size, by teacher, at every 2nd step``."""
    resolution, every = config.get("score_resolution"), config.get("score_every", 1)
    if not _number(resolution):
        return None
    whole = "at full size" if config.get("train_resolution", 1) == 1 else "at the size of training"
    words = [whole if resolution == 1 else f"at {resolution:.0%} of the size"]
    if config.get("score_network", "student") != "student":
        words.append(f"by {str(config['score_network']).replace('_', ' ')}")
    if every != 1:
        words.append(f"at one step of {every}")
    if _number(part := config.get("score_token_keep")) and part != 1:
        words.append(f"on {part:.0%} of the patches")
    if _number(part := config.get("score_depth")) and part != 1:
        words.append(f"after {part:.0%} of the backbone")
    return ", ".join(words)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Row:
    """A row of a table of runs: its title, and one value per run."""

    title: str
    values: list[Value]


def results(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Results, grouped by the images measured, with differences from the first run."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for place, run in enumerate(runs):
        for name in run.evaluations:
            if name not in SIZES and (last := run.last(name)) is not None:
                found.setdefault(f"during training{measured_on([run])}", {}).setdefault(name, {})[place] = last
        for result in run.results:
            data = PurePath(str(result.get("data"))).name
            for name, value in result.items():
                if _number(value) and name not in FACTS and not name.endswith(NO_RESULTS):
                    on = f"on {data}, tested on {test_set(result, name)}"
                    found.setdefault(on, {}).setdefault(name, {})[place] = float(value)
    return {on: [_row(name, values, len(runs)) for name, values in rows.items()] for on, rows in found.items()}


def _row(name: str, values: dict[int, float], count: int) -> Row:
    part = any(word in name for word in ("top1", "map", "_ap", "miou", "accuracy", "per_class"))
    cells = []
    for place in range(count):
        value, base = values.get(place), values.get(0)
        change = ""
        if place and value is not None and base is not None:
            change = f"{100 * (value - base):+.1f} points" if part else f"{value - base:+.3g}"
        cells.append(Value(number(np.nan if value is None else value, part), value, change.replace("-", "−")))
    return Row(label_of(name), cells)


def label_of(name: str) -> str:
    """Spells out a metric's name: ``knn_top1_k200`` becomes ``kNN, top 1, k 200``."""
    words = {"knn": "kNN", "top1": "top 1", "map": "mAP", "nmi": "NMI", "ari": "ARI", "miou": "mean IoU", "ap": "AP"}
    parts = [words.get(part, part) for part in name.split("_")]
    return " ".join(parts)


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings in which runs differ, with the value for every run."""
    flat = [settings({name: x for name, x in run.config.items() if name not in CARRIED_OUT}) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = [(name, [one.get(name, "not set") for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
