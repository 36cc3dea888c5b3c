"""The page of a comparison: the answer, accuracy against time, paired differences, power, arms, and what failed."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardviews import methods
from hardviews.analysis.comparison import label_of
from hardviews.analysis.drawing import intervals, lines
from hardviews.analysis.figure import Figure, Interval, Line
from hardviews.analysis.headline import subject
from hardviews.analysis.html import rendered
from hardviews.analysis.run import read_evaluations
from hardviews.comparison.jobs import Job
from hardviews.comparison.plan import Plan
from hardviews.comparison.power import POWER, SHOWN, power_of, seeds_for, smallest_shown
from hardviews.comparison.request import Request
from hardviews.comparison.statistics import ArmResult, Form, PairedDifference
from hardviews.wording import several

ROUGH = 5  # degrees of freedom, below which a standard deviation may be off by more than half
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
FIRST = ("linear_top1", "knn_top1")  # figures that the answer is about, if they were measured
Show = Callable[[str], Form]


@dataclass(frozen=True)
class PowerText:
    """What seeds can show of a figure: a sentence, and rows of seeds and the smallest difference they show."""

    name: str
    says: str
    rows: list[tuple[str, str]]


def page(
    request: Request, plan: Plan, jobs: Sequence[Job], rows: Sequence[ArmResult], sentences: Sequence[str],
    failed: Sequence[str], show: Show, head: Sequence[str], cells: Sequence[Sequence[str]],
) -> str:  # fmt: skip
    """The page as HTML.

    Args:
        request, plan, jobs: of the comparison.
        rows: of ``statistics.compare``.
        sentences: what follows from them.
        failed: why each run that failed did.
        show: how a figure is shown.
        head, cells: of the table of arms.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    versus = " against ".join([*(arm.name for arm in request.arms if arm.name != request.baseline), request.baseline])
    few = versus if len(request.arms) < 4 else several(len(request.arms), "arm")
    run = request.arms[0].options
    about = subject(
        {"method": run.method, "data": run.data, "backbone": {"name": run.backbone.name}},
        methods.written(run.method["name"]),
    )
    options = {arm.name: shlex.join(arm.argv) for arm in request.arms}
    drawn = [found for name in names if (found := differences(rows, name, show(name))) is not None]
    powers = [text for name in names if (text := power_text(rows, name, show(name))) is not None]
    return rendered(
        "comparison.html.j2",
        package="comparison",
        kind="comparison",
        title=f"{few}: {' '.join(about.values())}",
        answers=answers(rows, names, show),
        curve=against_time(plan, jobs, request.baseline),
        differences=drawn,
        powers=powers,
        arms=[(name, given, *_times(plan, name)) for name, given in options.items()],
        common=shlex.join(request.common),
        head=head,
        cells=cells,
        sentences=sentences,
        failed=failed,
        seeds=request.seeds,
        unpowered=bool(names) and not powers,
        chance=f"{100 * POWER:.0f} %",
    )


def _times(plan: Plan, name: str) -> tuple[str, str]:
    entry, base = plan["arms"][name], plan["arms"][plan["baseline"]]
    ratio = entry["seconds_per_epoch"] / base["seconds_per_epoch"]
    return f"{ratio:.2f}", str(entry["equal_time_epochs"])


def signed(text: str) -> str:
    """Numbers with a minus sign in place of a hyphen."""
    return text.replace("-", "−")


def answers(rows: Sequence[ArmResult], names: Sequence[str], show: Show) -> list[str]:
    """A sentence for every arm, those at equal time first; about one figure."""
    if not rows or rows[0].kind != "baseline" or not names:
        return ["No answer yet: no run of the baseline is finished."]
    name = next((one for one in FIRST if one in names), names[0])
    compared = sorted(rows[1:], key=lambda row: row.kind != "equal time")
    found = [_answer(row, rows[0], name, row.differences.get(name), show(name)) for row in compared]
    return found or ["No answer yet: no other arm than the baseline is finished."]


def _answer(row: ArmResult, base: ArmResult, name: str, difference: PairedDifference | None, form: Form) -> str:
    place = f"At {row.kind}" + (f" ({several(row.epochs, 'epoch')})" if row.kind == "equal time" else "")
    if difference is None:
        return f"{place}, {row.arm} has no seed in common with {base.arm} yet."
    unit = " points" if form.scale == 100 else ""
    amount = f"{label_of(name)} {signed(form.number(difference.mean, '+'))}{unit}"
    if difference.seeds == 1:
        return f"{place}, nothing can be said: one seed tells nothing of noise ({row.arm}: {amount})."
    low, high = (signed(form.number(bound, "+")) for bound in difference.interval)
    spans = f"{amount} (95 % interval {low} to {high}, {several(difference.seeds, 'seed')})"
    if not difference.distinguishable:
        return f"{place}, {row.arm} can't be told from {base.arm}: {spans}."
    better = "better" if difference.mean > 0 else "worse"
    return f"{place}, {row.arm} is {better} than {base.arm}: {spans}."


def differences(rows: Sequence[ArmResult], name: str, form: Form) -> Figure | None:
    """Every arm's difference from the baseline with its interval; None if there is none."""
    drawn = []
    for place, row in enumerate(rows):
        difference = row.differences.get(name)
        if row.kind == "baseline" or difference is None:
            continue
        mean, half = difference.mean * form.scale, difference.half_width * form.scale
        label = f"{row.arm}, {row.kind}"
        drawn.append(Interval(label, mean, mean - half, mean + half, signed(form.difference(difference)), place))
    if not drawn:
        return None
    unit = "points" if form.scale == 100 else "difference"
    words, base = label_of(name), rows[0].arm
    caption = (
        f"{words}: each arm minus {base}, seed by seed, with 95 % intervals by Student's t of the paired differences. "
        f"Where an interval contains 0, noise alone may explain the difference. "
        f"{'; '.join(f'{one.label}: {one.written}' for one in drawn)}."
    )
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return intervals(f"difference-{safe}", f"Difference from {base}: {words}", caption, drawn, x_label=unit, head="arm")


def against_time(plan: Plan, jobs: Sequence[Job], baseline: str) -> Figure | None:
    """kNN accuracy during training against the minutes of steps timed side by side; None if it was not measured."""
    kinds = list(dict.fromkeys((job.arm, job.epochs) for job in jobs))
    drawn = []
    for job in jobs:
        measured = read_evaluations(job.folder).get("knn_top1", [])
        if measured:
            epochs, values = np.array(measured).T
            seconds = epochs * plan["arms"][job.arm]["seconds_per_epoch"]
            lengths = [epochs for arm, epochs in kinds if arm == job.arm]
            label = job.arm if len(lengths) == 1 else f"{job.arm}, {several(job.epochs, 'epoch')}"
            drawn.append(Line(label, seconds, values, kinds.index((job.arm, job.epochs))))
    if not drawn:
        return None
    unit, length = next((unit for unit in UNITS if max(line.x.max() for line in drawn) > 2 * unit[1]), UNITS[-1])
    drawn = [replace(line, x=line.x / length) for line in drawn]
    caption = (
        "kNN accuracy measured during training, as the mean of all seeds with a band from the lowest to the highest. "
        "Time is that of training steps, timed side by side, so that it does not depend on what else the machine did."
    )
    return lines(
        "accuracy-time", "kNN accuracy over training time", caption, drawn, unit="pictures classified right",
        percent=True, x_label=unit, zero=True,
    )  # fmt: skip


def power_text(rows: Sequence[ArmResult], name: str, form: Form) -> PowerText | None:
    """What the seeds can show of a figure; None where that is unknown."""
    found = power_of(rows, name)
    if found is None:
        return None
    points = form.scale == 100

    def shown(value: float) -> str:
        return f"{100 * value:.1f} points" if points else form.number(value)

    one, unit = 1 / form.scale, "1 point" if points else form.number(1 / form.scale)
    needed = seeds_for(one, found.deviation)
    rough = ", so this is rough" if found.degrees < ROUGH else ""
    says = (
        f"{label_of(name)}: {several(found.seeds, 'seed')} can only show differences above {shown(found.shows)}; for "
        f"{unit} {f'take {needed:,}' if needed else 'more than 1,000 are needed'}. The paired differences vary by "
        f"{shown(found.deviation)} (standard deviation with {several(found.degrees, 'degree')} of freedom{rough})."
    )
    counts = sorted({*SHOWN, found.seeds})
    table = [(f"{count}", shown(smallest_shown(count, found.deviation))) for count in counts]
    return PowerText(label_of(name), says, table)
