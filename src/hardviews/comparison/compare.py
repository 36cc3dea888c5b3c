"""Carries out a comparison: times the arms, makes every run, compares their figures."""

import fcntl
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hardviews.analysis.measured import test_set
from hardviews.comparison import statistics
from hardviews.comparison.jobs import Job
from hardviews.comparison.plan import (
    LOCK,
    PLAN,
    Plan,
    default_folder,
    estimate,
    jobs_of,
    make_plan,
    open_labelled,
    plan_lines,
    read_plan,
)
from hardviews.comparison.request import Request
from hardviews.comparison.statistics import ArmResult
from hardviews.console import Say, progress_bars, say
from hardviews.errors import InputError, RunError
from hardviews.evaluation import protocols
from hardviews.launch.global_state import global_state_restored
from hardviews.setup.data_notices import shared_figures, shared_line, warn_of_data
from hardviews.wording import several

FIGURES, TEXT, PAGE = "comparison.json", "comparison.md", "comparison.html"
DRAWN_BY = ("matplotlib", "jinja2")


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Args:
        rows: of every arm and figure.
        sentences: what follows from them.
        measured_on: the test sets, with their sizes, and what was measured on each.
        failed: why each run that failed did, a line each.
        plan: what ``plan.json`` holds.
        overlap: how many test images are training images too, if that was looked for.
        jobs: how many runs were to be made.
        folder: of the comparison.
        page: for a browser; None if what draws it is not installed.
    """

    rows: Sequence[ArmResult]
    sentences: Sequence[str]
    measured_on: Mapping[str, Sequence[str]]
    failed: Sequence[str]
    plan: Plan
    overlap: Mapping[str, int]
    jobs: int
    folder: Path
    page: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """What ``comparison.json`` holds."""
        return {
            "rows": [finite(asdict(row)) for row in self.rows],
            "measured_on": self.measured_on,
            "said": self.sentences,
            "failed": self.failed,
            "plan": self.plan,
            "page": None if self.page is None else str(self.page),
            **self.overlap,
        }

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and lines of a table."""
        return statistics.table(self.rows, form)


@global_state_restored()
def dry_run(request: Request, say: Say = say) -> dict[str, Any]:
    """The plan of a comparison and the seconds that it will take; nothing is trained or written."""
    statistics.need_scipy()
    warn_of_data(*open_labelled(request), request.seeds[0])
    folder = Path(request.options.out or default_folder(request))
    plan = make_plan(request, folder)
    jobs = list(jobs_of(request, plan, folder / "runs"))
    for line in plan_lines(request, plan, jobs, folder):
        say(line)
    return plan | {"estimate": estimate(request, plan, jobs)}


@global_state_restored()
def compare(request: Request, say: Say = say) -> Comparison:
    """Plans, trains, measures and compares, as far as that is not done, and writes the comparison's files.

    Args:
        request: what is to be compared.
        say: takes the lines of the plan, and one for every run.

    Returns:
        What came of it; runs that failed are named in it, and all others are done and compared.

    Raises:
        InputError: before anything is trained.
    """
    statistics.need_scipy()
    measured = open_labelled(request)
    warn_of_data(*measured, request.seeds[0])
    folder = Path(request.options.out or default_folder(request))
    plan = write_plan(request, folder, make_plan(request, folder))
    jobs = list(jobs_of(request, plan, folder / "runs"))
    for line in plan_lines(request, plan, jobs, folder):
        say(line)
    failed = make_runs(jobs, say)
    timed = {name: float(entry["seconds_per_epoch"]) for name, entry in plan["arms"].items()}
    runs = runs_of(jobs)
    rows = statistics.compare(runs, request.baseline, int(plan["epochs"]), timed)
    test_sets = measured_on(jobs)
    sentences = [f"Measured on {test}: {', '.join(names)}." for test, names in test_sets.items()]
    sentences += statistics.sentences(rows, form) + unfinished(jobs, runs) + [f"Failed: {line}" for line in failed]
    sentences += shared_line(*measured, request.seeds[0])
    made = Comparison(
        rows, sentences, test_sets, failed, plan, shared_figures(*measured, request.seeds[0]), len(jobs), folder
    )
    made = replace(made, page=write_page(request, jobs, made, say))
    write(folder / FIGURES, json.dumps(made.as_dict(), indent=2))
    write(folder / TEXT, markdown(made))
    return made


def write_page(request: Request, jobs: Sequence[Job], made: Comparison, say: Say) -> Path | None:
    """Writes the page of a comparison and returns where it is."""
    if missing := [name for name in DRAWN_BY if find_spec(name) is None]:
        say(f"no {PAGE}: {' and '.join(missing)} not installed; pip install 'hardviews[analysis]'")
        return None
    from hardviews.comparison.page import page

    file = made.folder / PAGE
    write(file, page(request, made.plan, jobs, made.rows, made.sentences, made.failed, form, *made.cells()))
    return file


def write_plan(request: Request, folder: Path, plan: Plan) -> Plan:
    """Writes the plan. What another process has written meanwhile, while this one timed its steps, goes before: all who
    share the work must have the same epochs.

    Raises:
        InputError: nothing can be written to the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = read_plan(folder).get("arms", {})
            if any(plan["arms"].get(name) != entry for name, entry in there.items()):
                plan = make_plan(request, folder)
            write(folder / PLAN, json.dumps(plan, indent=2))
    except OSError as error:
        raise InputError(f"out: {folder} can't be written to: {error.strerror or error}") from error
    return plan


def make_runs(jobs: Sequence[Job], say: Say) -> list[str]:
    """Makes the runs; what became of those that failed, a line each."""
    failed: list[str] = []
    elsewhere = 0
    for number, job in enumerate(jobs, 1):
        name = f"[{number}/{len(jobs)}] {job.arm}, {several(job.epochs, 'epoch')}, seed {job.seed}"
        known = job.figures() is not None and job.summary() is not None
        try:
            with progress_bars() as progress:
                done = job.carry_out(progress(name, job.steps))
        except RunError as error:
            failed.append(str(error))
            say(f"{name}: failed: {error}")
            continue
        if not done:
            elsewhere += 1
            say(f"{name}: another process is at it")
        else:
            figures = ", ".join(
                f"{key} {protocols.as_text(key, value)}" for key, value in measured_figures(job).items()
            )
            say(f"{name}: {figures}; on {', '.join(measured_on([job]))}" + (" (there already)" if known else ""))
    if elsewhere:
        made = several(elsewhere, "run is", "runs are")
        say(f"{made} being made elsewhere: this comparison is not of all runs; call it again later")
    return failed


def unfinished(jobs: Sequence[Job], runs: Sequence[statistics.MeasuredRun]) -> list[str]:
    """Of which arms runs are not there, a sentence each: what is said of these is of fewer seeds than planned."""
    planned, there = (Counter((one.arm, one.epochs) for one in some) for some in (jobs, runs))
    return [
        f"Not finished: {arm}, {several(epochs, 'epoch')}: {there[arm, epochs]} of {several(count, 'run')} done."
        for (arm, epochs), count in planned.items()
        if there[arm, epochs] < count
    ]


def measured_figures(job: Job) -> dict[str, float]:
    """The figures of a measured run, without what protocols chose on the way."""
    found = job.figures() or {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, float)
        and name.partition("_")[0] in found["settings"]
        and not name.endswith(protocols.CHOSEN)
    }


def measured_on(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """The test sets, with their sizes, and what was measured on each."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        for name in measured_figures(job):
            names = found.setdefault(test_set(job.figures() or {}, name), [])
            if name not in names:
                names.append(name)
    return found


def runs_of(jobs: Sequence[Job]) -> list[statistics.MeasuredRun]:
    """Those that are done."""
    runs = []
    for job in jobs:
        summary, figures = job.summary(), measured_figures(job)
        if summary is not None and figures:
            runs.append(statistics.MeasuredRun(job.arm, job.seed, job.epochs, float(summary["seconds"]), figures))
    return runs


def form(name: str) -> statistics.Form:
    """Fractions are shown as points of a hundred."""
    return statistics.Form(1.0, 3) if name.endswith(protocols.PLAIN) else statistics.Form(100.0, 2)


def markdown(made: Comparison) -> str:
    head, cells = made.cells()
    lines = [head, ["---"] * len(head), *cells]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {' '.join(sentence.split())}" for sentence in made.sentences) + "\n"


def finite(value: Any) -> Any:
    """None for what JSON has no number for: the spread of a single run."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.part")
    beside.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    beside.replace(file)
