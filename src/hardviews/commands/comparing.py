"""Carries out a comparison: times the arms, makes every run, says what came of it."""

import fcntl
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hardviews.analysis import arms
from hardviews.analysis.measured import test_set
from hardviews.commands.bars import shown_progress
from hardviews.commands.compare import Request
from hardviews.commands.notices import shared_figures, shared_line, tell
from hardviews.commands.planning import (
    LOCK,
    PLAN,
    Plan,
    check_labels,
    default_folder,
    earlier,
    estimate,
    in_lines,
    jobs_of,
    planned,
)
from hardviews.commands.running import Job
from hardviews.commands.saying import several
from hardviews.errors import InputError, RunError
from hardviews.evaluation import protocols

FIGURES, TEXT = "comparison.json", "comparison.md"
Say = Callable[[str], None]


def compare(request: Request, dry: bool, as_json: bool) -> dict[str, Any]:
    """Plans, trains, measures and compares, as far as that is not done.

    Args:
        request: what is to be compared.
        dry: print the plan and stop; nothing is written.
        as_json: print the result as JSON on standard output, and everything else on standard error.

    Returns:
        What ``comparison.json`` holds; of a dry run, the plan.

    Raises:
        InputError: before anything is trained.
        RunError: runs failed; all others are done and compared.
    """
    arms.need_scipy()
    console = Console(stderr=as_json)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    measured = check_labels(request)
    tell(*measured, request.seeds[0])
    folder = Path(request.options.out or default_folder(request))
    plan = planned(request, folder)
    if not dry:
        plan = settled(request, folder, plan)
    jobs = list(jobs_of(request, plan, folder / "runs"))
    for line in in_lines(request, plan, jobs, folder):
        say(line)
    if dry:
        if as_json:
            print(json.dumps(plan | {"estimate": estimate(request, plan, jobs)}, indent=2))
        return plan
    failed = carried_out(jobs, say)
    timed = {name: float(entry["seconds_per_epoch"]) for name, entry in plan["arms"].items()}
    runs = runs_of(jobs)
    rows = arms.compare(runs, request.baseline, int(plan["epochs"]), timed)
    test_sets = measured_on(jobs)
    sentences = [f"Measured on {test}: {', '.join(names)}." for test, names in test_sets.items()]
    sentences += arms.sentences(rows, form) + lacking(jobs, runs) + [f"Failed: {line}" for line in failed]
    sentences += shared_line(*measured, request.seeds[0])
    result: dict[str, Any] = {
        "rows": [finite(asdict(row)) for row in rows],
        "measured_on": test_sets,
        "said": sentences,
        "failed": failed,
        "plan": plan,
    }
    result |= shared_figures(*measured, request.seeds[0])
    write(folder / FIGURES, json.dumps(result, indent=2))
    write(folder / TEXT, in_markdown(rows, sentences))
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show(rows, sentences, console, say)
        say(f"written to {folder / TEXT} and {folder / FIGURES}; the runs lie in {folder / 'runs'}")
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed, the same command tries them again; {failed[0]}")
    return result


def settled(request: Request, folder: Path, plan: Plan) -> Plan:
    """Writes the plan. What another process has written meanwhile, while this one timed its steps, goes before: all who
    share the work must have the same epochs.

    Raises:
        InputError: nothing can be written to the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = earlier(folder).get("arms", {})
            if any(plan["arms"].get(name) != entry for name, entry in there.items()):
                plan = planned(request, folder)
            write(folder / PLAN, json.dumps(plan, indent=2))
    except OSError as error:
        raise InputError(f"out: {folder} can't be written to: {error.strerror or error}") from error
    return plan


def carried_out(jobs: Sequence[Job], say: Say) -> list[str]:
    """Makes the runs; what became of those that failed, a line each."""
    failed: list[str] = []
    elsewhere = 0
    for number, job in enumerate(jobs, 1):
        name = f"[{number}/{len(jobs)}] {job.arm}, {several(job.epochs, 'epoch')}, seed {job.seed}"
        known = job.figures() is not None and job.summary() is not None
        try:
            with shown_progress() as progress:
                done = job.carry_out(progress(name, job.steps))
        except RunError as error:
            failed.append(str(error))
            say(f"{name}: failed: {error}")
            continue
        if not done:
            elsewhere += 1
            say(f"{name}: another process is at it")
        else:
            figures = ", ".join(f"{key} {protocols.as_text(key, value)}" for key, value in told(job).items())
            say(f"{name}: {figures}; on {', '.join(measured_on([job]))}" + (" (there already)" if known else ""))
    if elsewhere:
        say(f"{elsewhere} runs are being made by other processes: this comparison is without them; call it again later")
    return failed


def lacking(jobs: Sequence[Job], runs: Sequence[arms.Run]) -> list[str]:
    """Of which arms runs are not there, a sentence each: what is said of these is of fewer seeds than planned."""
    planned, there = (Counter((one.arm, one.epochs) for one in some) for some in (jobs, runs))
    return [
        f"Not finished: {arm}, {several(epochs, 'epoch')}: {there[arm, epochs]} of {count} runs are there."
        for (arm, epochs), count in planned.items()
        if there[arm, epochs] < count
    ]


def told(job: Job) -> dict[str, float]:
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
        for name in told(job):
            names = found.setdefault(test_set(job.figures() or {}, name), [])
            if name not in names:
                names.append(name)
    return found


def runs_of(jobs: Sequence[Job]) -> list[arms.Run]:
    """Those that are done."""
    runs = []
    for job in jobs:
        summary, figures = job.summary(), told(job)
        if summary is not None and figures:
            runs.append(arms.Run(job.arm, job.seed, job.epochs, float(summary["seconds"]), figures))
    return runs


def form(name: str) -> arms.Form:
    """Parts of one are told in points of a hundred."""
    return arms.Form(1.0, 3) if name.endswith(protocols.PLAIN) else arms.Form(100.0, 2)


def in_markdown(rows: Sequence[arms.Row], sentences: Sequence[str]) -> str:
    head, cells = arms.table(rows, form)
    lines = [head, ["---"] * len(head), *cells]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences) + "\n"


def show(rows: Sequence[arms.Row], sentences: Sequence[str], console: Console, say: Say) -> None:
    head, cells = arms.table(rows, form)
    table = Table(*head)
    for line in cells:
        table.add_row(*line)
    # A pipe has no width that the table would have to be squeezed into.
    (console if console.is_terminal else Console(file=console.file, width=200)).print(table)
    for sentence in sentences:
        say(sentence)


def finite(value: Any) -> Any:
    """None for what JSON has no number for: the spread of a single run."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.part")
    beside.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    beside.replace(file)
