"""The plan of a comparison: what an epoch of every arm takes, and the runs that follow from it."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hardviews.comparison.jobs import Job
from hardviews.comparison.request import Arm, Request
from hardviews.console import duration, say
from hardviews.data.reading.decode import printable
from hardviews.data.sources import ImageSource, why_unlabelled
from hardviews.errors import InputError, RunError
from hardviews.launch.own_process import ProcessKilledError, in_own_process
from hardviews.options.evaluation import split_names
from hardviews.options.old_names import with_new_names
from hardviews.probing.evaluation_time import measurements
from hardviews.probing.step_time import Besides, Timing, time_arms
from hardviews.recipes.choice import NONE, is_open
from hardviews.setup.data import open_sources
from hardviews.setup.defaults import run_folder_name
from hardviews.training.output.differences import differences, differences_text, plain
from hardviews.training.output.run_folder import FREE
from hardviews.wording import several

PLAN, LOCK = "plan.json", "plan.lock"

Plan = dict[str, Any]
Measured = tuple[ImageSource, ImageSource | None, str | None]  # training data, test data, and how this was named


def default_folder(request: Request) -> Path:
    """``runs/compare-METHOD-DATA``: without the time, so that the same command resumes."""
    return run_folder_name(request.arms[0].options, "compare")


def open_labelled(request: Request) -> Measured:
    """The data that the runs are measured on; raises InputError where they could not be."""
    run, labelled, test_data = request.arms[0].options, request.options.labelled, request.options.labelled_test
    options = replace(run, data=labelled, test_data=test_data) if labelled else run
    source, test = open_sources(options, must_be_labelled=False)
    if source.labels is None:
        why = f"{why_unlabelled(source)}; or give --labelled DATA that has"
        raise InputError(f"data: {printable(str(options.data))} has no labels to measure by: {why}")
    if test is not None and test.labels is None:
        raise InputError(f"test-data: {test.name} has no labels to measure by: {why_unlabelled(test)}")
    return source, test, options.test_data


def make_plan(request: Request, folder: Path) -> Plan:
    """Every arm's settings, seconds an epoch, and the epochs of its runs; what an earlier call found is kept.

    Raises:
        InputError: the folder holds another comparison, or something else.
    """
    plan = read_plan(folder)
    arms, per_epoch = plan.get("arms", {}), plan.get("steps_per_epoch", 0)
    for arm in request.arms:
        differing = differences(arms[arm.name]["settings"], settings_of(arm)) if arm.name in arms else []
        if differing:
            raise InputError(
                f"out: {folder} holds another comparison: of {arm.name}, {differences_text(differing)}; "
                "give another folder"
            )
    if plan and plan["baseline"] != request.baseline:
        raise InputError(f"out: in {folder} the baseline is {plan['baseline']}; give another folder")
    new = [arm for arm in request.arms if arm.name not in arms]
    if new:
        base = next(arm for arm in request.arms if arm.name == request.baseline)
        timing = timed({arm.name: arm for arm in (base, *new)}, request)
        per_epoch = timing.steps_per_epoch
        # Of an earlier call the baseline's time is known, and machines are not always equally fast.
        faster = arms[base.name]["seconds_per_epoch"] / timing.epoch(base.name) if base.name in arms else 1.0
        for arm in new:
            besides = plain(asdict(timing.besides.get(arm.name, Besides())))
            besides |= {name: faster * value for name, value in besides.items() if isinstance(value, float)}
            seconds = timing.epoch(arm.name) * faster
            arms[arm.name] = {"seconds_per_epoch": seconds, "besides": besides, "settings": settings_of(arm)}
    whole = arms[request.baseline]["seconds_per_epoch"] * request.arms[0].options.epochs
    for entry in arms.values():
        entry["equal_time_epochs"] = max(round(whole / entry["seconds_per_epoch"]), 1)
    epochs = request.arms[0].options.epochs
    return {"baseline": request.baseline, "epochs": epochs, "steps_per_epoch": per_epoch, "arms": arms}


def read_plan(folder: Path) -> Plan:
    """The plan in a folder; empty, where it is new."""
    if not folder.exists() or (folder.is_dir() and {LOCK}.issuperset(file.name for file in folder.iterdir())):
        return {}
    try:
        plan: Plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"out: {folder} holds no comparison that can continue ({PLAN}); give a new folder") from error
    for entry in plan.get("arms", {}).values():
        entry["settings"] = with_new_names(entry["settings"])
    return plan


def settings_of(arm: Arm) -> dict[str, Any]:
    """What makes an arm what it is, but for the seed."""
    settings: dict[str, Any] = plain(asdict(arm.options))
    return {key: value for key, value in settings.items() if key not in FREE and key != "seed"}


def timed(arms: Mapping[str, Arm], request: Request) -> Timing:
    """By a process of its own, which gives its memory back, and whose start is timed too."""
    options, begun = {name: arm.options for name, arm in arms.items()}, time.time()
    steps = several(request.options.timed_steps, "step")
    say(f"timing {steps} of each of {several(len(arms), 'arm')}, and a measurement; large networks take minutes")
    try:
        return in_own_process(
            time_arms, options, request.options.timed_steps, request.evaluation, request.settings, begun
        )
    except ProcessKilledError as error:
        raise RunError(
            "timing: the process that timed some steps was killed; a smaller --batch-size may help"
        ) from error


def jobs_of(request: Request, plan: Plan, folder: Path) -> Iterator[Job]:
    """Every run, seed by seed, so that an interrupted comparison has whole pairs."""
    options, epochs = request.options, int(plan["epochs"])
    for seed in request.seeds:
        lengths = [(arm, epochs) for arm in request.arms if options.equal_epochs or arm.name == request.baseline]
        if options.equal_time:
            equal = [(arm, int(plan["arms"][arm.name]["equal_time_epochs"])) for arm in request.arms]
            lengths += [one for one in equal if one not in lengths]
        for arm, length in lengths:
            run = folder / f"{arm.name}-{length}-epochs-seed-{seed}"
            own = ("--epochs", str(length), "--seed", str(seed), "--out", str(run), "--json")
            given = [*request.common, *arm.argv]
            # Arms must not differ by a recipe that one of them leaves open.
            training = (*given, *([f"--recipe={NONE}"] if is_open(given) else []), *own)
            steps = length * int(plan["steps_per_epoch"])
            yield Job(arm.name, seed, length, steps, run, training, (str(run), *request.measuring))


def plan_lines(request: Request, plan: Plan, jobs: Sequence[Job], folder: Path) -> Iterator[str]:
    run = request.arms[0].options
    seeds = f"seed{'s' * (len(request.seeds) > 1)} {', '.join(map(str, request.seeds))}"
    yield (
        f"{run.method['name']} on {run.data}: {several(len(request.arms), 'arm')}, {seeds}, "
        f"{several(len(jobs), 'run')}, each measured by {' and '.join(split_names(request.options.protocol))}; "
        f"folder {folder}"
    )
    for arm in request.arms:
        entry = plan["arms"][arm.name]
        seconds, equal = entry["seconds_per_epoch"], entry["equal_time_epochs"]
        epochs = run.epochs if request.options.equal_epochs or arm.name == request.baseline else equal
        line = f"  {arm.name}: {several(epochs, 'epoch')} of {duration(seconds)}"
        if arm.name == request.baseline:
            line += ", the baseline"
        elif request.options.equal_time and equal != epochs:
            line += f"; and {several(equal, 'epoch')}, for equal time"
        elif epochs != run.epochs:
            line += ", for equal time"
        yield line
    left = [job for job in jobs if job.summary() is None]
    parts = {name: seconds for name, seconds in estimate(request, plan, jobs).items() if seconds}
    line = f"  {several(len(left), 'run')} to train: about {duration(sum(parts.values()))} here"
    if len(parts) > 1:
        line += f" ({', '.join(f'{name} {duration(seconds)}' for name, seconds in parts.items())})"
    entries = [plan["arms"][arm.name] for arm in request.arms]
    if any("besides" not in entry for entry in entries):  # of a plan of an earlier version
        line += ", besides start-up and measuring"
    elif entries[0]["besides"]["unknown"]:
        line += f", besides what {' and '.join(entries[0]['besides']['unknown'])} will take"
    yield line


def estimate(request: Request, plan: Plan, jobs: Sequence[Job]) -> dict[str, float]:
    """Seconds that what is not done of some runs will take, by what they are spent on."""
    every = {arm.name: arm.options.knn_epochs for arm in request.arms}
    total = dict.fromkeys(("steps", "start-up", "measuring on the way", "measuring at the end"), 0.0)
    for job in jobs:
        entry = plan["arms"][job.arm]
        besides = Besides(**entry.get("besides", {}))
        if job.summary() is None:
            total["steps"] += job.epochs * entry["seconds_per_epoch"]
            total["start-up"] += besides.start + besides.loading
            if besides.measurement:
                count = measurements(job.epochs, every[job.arm])
                total["measuring on the way"] += count * besides.measurement + besides.pixels
        if job.figures() is None:
            total["start-up"] += besides.start
            total["measuring at the end"] += besides.evaluation
    return total
