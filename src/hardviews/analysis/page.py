"""Builds the page: puts sections of figures and pictures into ``report.html.j2``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hardviews.analysis import choices, comparison, curves, embedding, hardness, pictures
from hardviews.analysis.arms import settings
from hardviews.analysis.figure import Figure
from hardviews.analysis.headline import opinions, standing, title
from hardviews.analysis.html import MARK, rendered
from hardviews.analysis.run import Run
from hardviews.telemetry.shown import caption
from hardviews.views.pixels import Pixels

__all__ = ["MARK", "MEANING", "report"]

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
        more: further figures, behind a click.
        more_title: what they are.
    """

    name: str
    title: str
    opening: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    more: list[Figure] = field(default_factory=list)
    more_title: str = ""


@dataclass(frozen=True)
class Album:
    """A run's pictures: the gallery, the hardest and the easiest, and notes about them."""

    run: Run
    gallery: list[pictures.GalleryImage]
    hardest: list[pictures.Extreme]
    easiest: list[pictures.Extreme]
    notes: list[str]


def report(
    runs: Sequence[Run],
    readers: Sequence[Reader | str],
    inspected: "Mapping[int, embedding.Inspection | str]",
) -> tuple[str, list[comparison.KeyFigure]]:
    """The page, and its key figures.

    Args:
        runs: at least one; plots overlay several, and tables compare them with the first.
        readers: for every run, a reader of its data set's pictures by index, or the reason why there is none.
        inspected: by the index of a run whose pictures are shown, what its backbone makes of some, or the reason why
            that is unknown.
    """
    selecting = choices.selecting_runs(runs)
    figures = comparison.key_figures(runs, selecting)
    seen = [embedding.seen(runs[place].name, one) for place, one in inspected.items()]
    page = rendered(
        "report.html.j2",
        title=title(runs),
        kind="report",
        runs=runs,
        opinions=opinions(runs),
        standing=standing(runs),
        key_figures=figures,
        properties=comparison.properties_of_all(runs),
        settings=[settings(run.config) for run in runs],
        differences=[[name, *values] for name, values in comparison.differences(runs)],
        results=comparison.results(runs),
        sections=_sections(runs, selecting),
        seen=seen,
        same=[embedding.described(one.same) for one in seen],
        albums=[_album(runs[place], readers[place], len(inspected)) for place in inspected],
    )
    return page, figures


def _sections(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> dict[str, Section]:
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
    if not any(map(comparison.selects, runs)):
        says = "Nothing was selected: all views that were drawn were kept. --views with more of them selects."
        chosen = Section("hardness", "What selection prefers", says, [], [])
        slower = ""
    else:
        chosen = _preferred(runs, selecting)
        slower = "Hard views take extra time: all candidates are scored before some of them are trained on."
    found = [
        Section(
            "learning", "What was learned",
            "While a network trains on unlabelled pictures, these curves show whether it learns anything useful.",
            curves.learning(runs), untrained + diverged + unlabelled, curves.extras(runs), "The method's own measures",
        ),
        chosen,
        Section(
            "time", "Time and memory",
            slower,
            curves.times(runs), untrained,
        ),
    ]  # fmt: skip
    return {section.name: section for section in found}


def _asked(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> str:
    """What a difference between kept and random views means under the runs' policies; see ``MEANING``."""
    by_policy: dict[str, list[str]] = {}
    for one in selecting:
        policy = str(one.run.config.get("policy")).partition("(")[0]
        by_policy.setdefault(MEANING.get(policy, ""), []).append(one.run.name)
    by_policy.pop("", None)
    per_run = [f"{meaning} ({', '.join(names)})" if len(runs) > 1 else meaning for meaning, names in by_policy.items()]
    return " ".join(f"{one[:1].upper()}{one[1:]}." for one in per_run)


def _preferred(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> Section:
    importance, without = hardness.measured(runs)
    missing = [f"{runs[place].name}: what makes a view hard is unknown; {why}." for place, why in without.items()]
    overlaps = choices.overlaps(runs, selecting)
    explained = [hardness.figure(runs, importance)] if importance else []
    return Section(
        "hardness",
        "What selection prefers",
        "Every candidate view shows another part of the picture, in other colours; the candidates that are kept "
        f"differ from a random choice. {_asked(runs, selecting)}",
        choices.preferences(runs, selecting) + overlaps[:1] + curves.costs(runs) + explained,
        _unchosen(runs, selecting) + missing,
        overlaps[1:] + choices.crops(runs, selecting) + choices.colours(runs, selecting),
        "Overlap, crops and colours of kept and random views, epoch by epoch",
    )


def _unchosen(runs: Sequence[Run], selecting: Sequence[choices.SelectingRun]) -> list[str]:
    """Why runs are missing from the figures of telemetry."""
    found = []
    shown = {one.place for one in selecting}
    for place, run in enumerate(runs):
        if place not in shown:
            why = run.without or "nothing was selected: all drawn views were kept"
            found.append(f"{run.name}: {why}.")
    return found


def _album(run: Run, reader: Reader | str, runs: int) -> Album:
    if run.telemetry is None:
        return Album(run, [], [], [], [f"No pictures: {run.without}."])
    notes = []
    if isinstance(reader, str):
        notes.append(
            f"The data set could not be read, so pictures have a number for a name, and those outside the gallery are "
            f"not shown: {reader}."
        )
    read = None if isinstance(reader, str) else reader
    gallery = pictures.gallery(run.telemetry, pictures.CANDIDATES // runs, read)
    if not gallery:
        notes.append("No gallery: the run was made with --gallery 0, or its thumbnails are gone.")
    hardest, easiest = pictures.extremes(run.telemetry, read)
    if shown := caption(Pixels.from_config(run.config), run.telemetry.shown):
        notes.append(f"Pictures show {shown}.")
    if not hardest:
        notes.append("The hardest pictures are unknown: candidates were not scored, or nothing was selected.")
    return Album(run, gallery, hardest, easiest, notes)
