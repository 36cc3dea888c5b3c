"""Builds the page: puts sections of figures and pictures into ``report.html.j2``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hardviews.analysis import choices, comparison, curves, hardness, pictures
from hardviews.analysis.figure import Figure
from hardviews.analysis.run import Run
from hardviews.telemetry.shown import caption
from hardviews.views.pixels import Pixels

MARK = '<meta name="generator" content="hardviews report">'  # identifies a file as one of ours

# By policy: what a difference between kept and random views means.
_HARD = "the model was asked which views it does worst on, so a difference means that it finds such views hard"
_OVERLAP = "views were kept by their overlap and the model was not asked, so other differences say nothing about it"
MEANING = {
    "hardest": _HARD,
    "sampled": _HARD,
    "easiest": "the model was asked which views it does best on, so a difference means that it finds such views easy",
    "random": "views were kept at random and the model was not asked, so all differences are chance",
    "lowest_iou": _OVERLAP,
    "highest_iou": _OVERLAP,
    "unexpected": "the views that cost more than their parameters predict were kept, so a difference means that the "
    "prediction misses a part of it, or that not all of the prediction is subtracted",
    "learnable": "the views that cost the student most beyond what they cost its average were kept, so a difference "
    "means that the student has yet to learn such views",
    "rescue": "the hardest views were kept for the easiest images only, and views at random for the others, so a "
    "difference means that the model finds such views hard on these images",
}

Reader = Callable[[int], pictures.Original | None]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: its anchor in the page.
        title: a few words.
        opening: a sentence that needs no knowledge of the paper.
        figures: may be empty.
        missing: what is unknown, and why.
    """

    name: str
    title: str
    opening: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Album:
    """A run's pictures: the gallery, the hardest and the easiest, and notes about them."""

    run: Run
    gallery: list[pictures.GalleryImage]
    hardest: list[pictures.Extreme]
    easiest: list[pictures.Extreme]
    notes: list[str]


def report(runs: Sequence[Run], readers: Sequence[Reader | str]) -> tuple[str, list[comparison.KeyFigure]]:
    """The page, and its key figures.

    Args:
        runs: at least one; plots overlay several, and tables compare them with the first.
        readers: for every run, a reader of its data set's pictures by index, or the reason why there is none.
    """
    selecting = choices.selecting_runs(runs)
    figures = comparison.key_figures(runs, selecting)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    here = resources.files("hardviews.analysis")
    template = environment.from_string((here / "report.html.j2").read_text(encoding="utf-8"))
    style = environment.from_string((here / "report.css.j2").read_text(encoding="utf-8")).render()
    results = comparison.results(runs)
    page = template.render(
        mark=Markup(MARK),
        style=Markup(style),
        title=" and ".join(run.name for run in runs) if len(runs) < 3 else f"{runs[0].name} and {len(runs) - 1} more",
        runs=runs,
        key_figures=figures,
        properties=comparison.properties_of_all(runs),
        settings=[comparison.settings(run.config) for run in runs],
        differences=[[name, *values] for name, values in comparison.differences(runs)],
        results=results,
        sections=_sections(runs, selecting),
        albums=[_album(run, reader, len(runs)) for run, reader in zip(runs, readers, strict=True)],
        version=version("hardviews"),
        svg=Markup,
    )
    return page, figures


def _sections(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> list[Section]:
    untrained = [f"{run.name}: no curves yet, since no step was written." for run in runs if not run.steps]
    diverged = [
        f"{run.name}: no step had a finite loss: training diverged at the start."
        for run in runs
        if run.steps and not np.isfinite(run.mean("loss"))
    ]
    unlabelled = [
        f"{run.name}: kNN accuracy was not measured: the data has no labels, --knn-epochs was 0, or features "
        "were not finite."
        for run in runs
        if not run.evaluations.get("knn_top1")
    ]
    asked = _asked(runs, selecting)
    found = [
        Section(
            "learning", "What was learned",
            "While a network trains on unlabelled pictures, these curves show whether it learns anything useful.",
            curves.learning(runs), untrained + diverged + unlabelled,
        ),
        Section(
            "time", "Time per step",
            "Hard views take extra time: all candidates are scored before some of them are trained on.",
            curves.times(runs), untrained,
        ),
        Section(
            "overlap", "Which views were kept",
            "Every candidate view shows another part of the picture; views that overlap little are harder to recognise "
            "as the same picture. These figures show how much the kept views overlap.",
            choices.overlaps(runs, selecting) + choices.crops(runs, selecting), _unchosen(runs, selecting),
        ),
        Section(
            "colour", "Their colours",
            f"Candidates also differ in colour, at random. {asked}",
            choices.colours(runs, selecting), _unchosen(runs, selecting, brief=True),
        ),
    ]  # fmt: skip
    importance, without = hardness.measured(runs)
    missing = [f"{runs[place].name}: unknown; {why}." for place, why in without.items()]
    drawn = choices.preferences(runs, selecting) + ([hardness.figure(runs, importance)] if importance else [])
    hard = Section(
        "hardness", "What makes a view hard",
        "How kept views differ from a random choice, and which of the drawn parameters (crop, colours, blur) explain "
        f"most of a view's cost for the model. {asked}",
        drawn, missing,
    )  # fmt: skip
    return [*found, hard]


def _asked(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> str:
    """What a difference between kept and random views means under the runs' policies; see ``MEANING``."""
    by_policy: dict[str, list[str]] = {}
    for one in selecting:
        policy = str(one.run.config.get("policy")).partition("(")[0]
        by_policy.setdefault(MEANING.get(policy, ""), []).append(one.run.name)
    by_policy.pop("", None)
    per_run = [f"{meaning} ({', '.join(names)})" if len(runs) > 1 else meaning for meaning, names in by_policy.items()]
    return " ".join(f"{one[:1].upper()}{one[1:]}." for one in per_run)


def _unchosen(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun], brief: bool = False) -> list[str]:
    """Why runs are missing from the figures of telemetry."""
    found = []
    shown = {one.place for one in selecting}
    for place, run in enumerate(runs):
        if place not in shown:
            why = run.without or "nothing was selected: all drawn views were kept"
            found.append(f"{run.name}: {'no figures, as above' if brief else why}.")
    return found


def _album(run: Run, reader: Reader | str, runs: int) -> Album:
    if run.telemetry is None:
        return Album(run, [], [], [], [f"No pictures: {run.without}."])
    notes = []
    if isinstance(reader, str):
        notes.append(f"The data set could not be read, so pictures outside the gallery show only a number: {reader}.")
    gallery = pictures.gallery(run.telemetry, pictures.CANDIDATES // runs)
    if not gallery:
        notes.append("No gallery: the run was made with --gallery 0, or its thumbnails are gone.")
    hardest, easiest = pictures.extremes(run.telemetry, None if isinstance(reader, str) else reader)
    if shown := caption(Pixels.from_config(run.config), run.telemetry.shown):
        notes.append(f"Pictures show {shown}.")
    if not hardest:
        notes.append("The hardest pictures are unknown: candidates were not scored, or nothing was selected.")
    return Album(run, gallery, hardest, easiest, notes)
