"""The page: sections of figures and pictures, put into ``report.html.j2``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hardviews.analysis import choices, comparison, curves, hardness, pictures
from hardviews.analysis.figure import Figure
from hardviews.analysis.run import Run

MARK = '<meta name="generator" content="hardviews report">'  # by which a file is known to be one of ours

Reader = Callable[[int], pictures.Original | None]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: its address in the page.
        title: of a few words.
        opening: one sentence understood without the paper.
        figures: may be none.
        missing: what could not be told, and why.
    """

    name: str
    title: str
    opening: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Album:
    """Pictures of a run: the gallery, the hardest and the easiest, and what is to be said of them."""

    run: Run
    gallery: list[pictures.Shown]
    hardest: list[pictures.Extreme]
    easiest: list[pictures.Extreme]
    notes: list[str]


def report(runs: Sequence[Run], readers: Sequence[Reader | str]) -> tuple[str, list[comparison.KeyFigure]]:
    """The whole page, and its key figures.

    Args:
        runs: at least one; several are laid over each other, and compared with the first.
        readers: of every run, what gives pictures of its data set by index; or why there is nothing that does.
    """
    of = choices.chosen(runs)
    figures = comparison.key_figures(runs, of)
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
        facts=comparison.facts_of_all(runs),
        settings=[comparison.settings(run.config) for run in runs],
        differences=[[name, *values] for name, values in comparison.differences(runs)],
        results=results,
        sections=_sections(runs, of),
        albums=[_album(run, reader, len(runs)) for run, reader in zip(runs, readers, strict=True)],
        version=version("hardviews"),
        svg=Markup,
    )
    return page, figures


def _sections(runs: Sequence[Run], of: Sequence[choices.Chosen]) -> list[Section]:
    untrained = [f"{run.name}: no step was written yet, so there are no curves." for run in runs if not run.steps]
    unlabelled = [
        f"{run.name}: the kNN accuracy was not measured: the data has no labels, or --knn-epochs was 0."
        for run in runs
        if not run.evaluations.get("knn_top1")
    ]
    found = [
        Section(
            "learning", "What was learned",
            "While a network trains on pictures without labels, these curves tell whether it learns something of use.",
            curves.learning(runs), untrained + unlabelled,
        ),
        Section(
            "time", "Where the time went",
            "Choosing hard views costs time: candidates have to be looked at before some of them are trained on.",
            curves.times(runs), untrained,
        ),
        Section(
            "overlap", "Which views were kept",
            "Every candidate view shows another part of the picture; views that share little are harder to tell as the "
            "same picture, and this is how much those that were kept share.",
            choices.overlaps(runs, of) + choices.crops(runs, of), _unchosen(runs, of),
        ),
        Section(
            "colour", "Their colours",
            "Candidates are changed in colour as well, at random; where kept views differ from random ones, the model "
            "finds such changes hard.",
            choices.colours(runs, of), _unchosen(runs, of, brief=True),
        ),
    ]  # fmt: skip
    importance, without = hardness.measured(runs)
    missing = [f"{runs[place].name}: not told; {why}." for place, why in without.items()]
    drawn = choices.preferences(runs, of) + ([hardness.figure(runs, importance)] if importance else [])
    hard = Section(
        "hardness", "What makes a view hard",
        "Where kept views differ from a random choice, and what helps most to guess from the drawn numbers (crop, "
        "colours, blur) what views cost the model, is what it finds hard.",
        drawn, missing,
    )  # fmt: skip
    return [*found, hard]


def _unchosen(runs: Sequence[Run], of: Sequence[choices.Chosen], brief: bool = False) -> list[str]:
    """Why runs are not in the figures of telemetry."""
    found = []
    shown = {one.place for one in of}
    for place, run in enumerate(runs):
        if place not in shown:
            why = run.without or "nothing was chosen: as many views were drawn as are kept"
            found.append(f"{run.name}: {'no figures, as above' if brief else why}.")
    return found


def _album(run: Run, reader: Reader | str, runs: int) -> Album:
    if run.telemetry is None:
        return Album(run, [], [], [], [f"No pictures: {run.without}."])
    notes = []
    if isinstance(reader, str):
        notes.append(f"The data set could not be read, so pictures outside the gallery have only a number: {reader}.")
    gallery = pictures.gallery(run.telemetry, pictures.CANDIDATES // runs)
    if not gallery:
        notes.append("No gallery: the run was made with --gallery 0, or its small pictures are gone.")
    hardest, easiest = pictures.extremes(run.telemetry, None if isinstance(reader, str) else reader)
    if not hardest:
        notes.append("Which pictures are hard is not known: candidates were not scored, or nothing was chosen.")
    return Album(run, gallery, hardest, easiest, notes)
