"""What several runs of several arms, with the same seeds, say of the difference between the arms."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from hardviews.errors import InputError
from hardviews.wording import several

CONFIDENCE = 0.95
EQUAL = 1e-9  # differences that vary by less are all the same
BUSY = 0.15  # by more than this part, the time that runs took is another than that of steps timed side by side


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run of an arm: its figures by name, and the seconds its steps took."""

    arm: str
    seed: int
    epochs: int
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class PairedDifference:
    """Of an arm from the baseline, over the seeds that both have.

    Args:
        seeds: how many.
        mean: of the differences seed by seed.
        half_width: half the interval in which the true mean lies with 95 % confidence, by Student's t of the paired
            differences; infinite with one seed.
    """

    seeds: int
    mean: float
    half_width: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves zero out, and has a width: equal differences tell nothing of how far others
        would lie apart."""
        return abs(self.mean) > self.half_width > EQUAL


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of some runs; NaN where there are too few."""

    runs: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class ArmResult:
    """The runs of an arm that had as many epochs.

    Args:
        arm: its name.
        epochs: of each run.
        kind: baseline, equal epochs, or equal time.
        seconds: of the steps of a run, on whatever machine and beside whatever else it ran.
        ratio: of the baseline's time that a run takes where nothing else does, as steps timed side by side say.
        took: of the baseline's time that its runs took, over the seeds that both have; NaN where there are none.
        figures: by name.
        differences: from the baseline, by name; None where no seed is common.
    """

    arm: str
    epochs: int
    kind: str
    seconds: Spread
    ratio: float
    took: float
    figures: Mapping[str, Spread]
    differences: Mapping[str, PairedDifference | None]


@dataclass(frozen=True)
class Form:
    """How figures are shown: times ``scale``, with this many ``digits``."""

    scale: float = 1.0
    digits: int = 2

    def number(self, value: float, sign: str = "") -> str:
        return f"{value * self.scale:{sign}.{self.digits}f}"

    def spread(self, spread: Spread) -> str:
        return self.number(spread.mean) + ("" if spread.runs < 2 else f" ± {self.number(spread.deviation)}")

    def difference(self, difference: PairedDifference) -> str:
        mean = self.number(difference.mean, "+")
        if difference.seeds < 2:
            return mean
        low, high = (self.number(bound, "+") for bound in difference.interval)
        return f"{mean} ({low} to {high})"


def spread(values: Mapping[int, float]) -> Spread:
    """Of figures by seed."""
    found = list(values.values())
    mean = statistics.fmean(found) if found else math.nan
    return Spread(len(found), mean, statistics.stdev(found) if len(found) > 1 else math.nan)


def paired(arm: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference | None:
    """The difference between two arms, figures by seed; None where they have no seed in common."""
    both = sorted(arm.keys() & baseline.keys())
    if not both:
        return None
    differences = [arm[seed] - baseline[seed] for seed in both]
    if len(both) == 1:
        return PairedDifference(1, differences[0], math.inf)
    error = statistics.stdev(differences) / math.sqrt(len(both))
    return PairedDifference(len(both), statistics.fmean(differences), quantile(len(both) - 1) * error)


def quantile(degrees: int) -> float:
    """By how many standard errors the interval reaches to either side."""
    need_scipy()
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))


def need_scipy() -> None:
    """Raises InputError where the extra is missing."""
    if find_spec("scipy") is None:
        raise InputError("comparing needs scipy: pip install 'hardviews[analysis]'")


def compare(runs: Sequence[MeasuredRun], baseline: str, epochs: int, timed: Mapping[str, float]) -> list[ArmResult]:
    """A row for every arm and number of epochs, the baseline's first, those of equal time last.

    Args:
        runs: all that are finished.
        baseline: the arm that others are compared with, at ``epochs``.
        epochs: of arms at equal epochs; whatever has another number has the baseline's time.
        timed: seconds an epoch takes, by arm, timed side by side.
    """
    kinds = list(dict.fromkeys((run.arm, run.epochs) for run in runs))
    rows = []
    for arm, length in sorted(kinds, key=lambda kind: (kind[1] != epochs, kind[0] != baseline)):
        mine = [run for run in runs if (run.arm, run.epochs) == (arm, length)]
        names = dict.fromkeys(name for run in mine for name in run.figures)
        figures = {name: _by_seed(mine, name) for name in names}
        against = [run for run in runs if (run.arm, run.epochs) == (baseline, epochs)]
        seconds, whole = {run.seed: run.seconds for run in mine}, {run.seed: run.seconds for run in against}
        both = seconds.keys() & whole.keys()
        rows.append(
            ArmResult(
                arm,
                length,
                _kind((arm, length), (baseline, epochs)),
                spread(seconds),
                timed[arm] * length / (timed[baseline] * epochs),
                sum(seconds[seed] for seed in both) / sum(whole[seed] for seed in both) if both else math.nan,
                {name: spread(values) for name, values in figures.items()},
                {name: paired(values, _by_seed(against, name)) for name, values in figures.items()},
            )
        )
    return rows


def _kind(mine: tuple[str, int], baseline: tuple[str, int]) -> str:
    if mine == baseline:
        return "baseline"
    return "equal epochs" if mine[1] == baseline[1] else "equal time"


def _by_seed(runs: Sequence[MeasuredRun], name: str) -> dict[int, float]:
    return {run.seed: run.figures[name] for run in runs if name in run.figures}


def table(rows: Sequence[ArmResult], show: Callable[[str], Form]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of text.

    Args:
        rows: of ``compare``.
        show: how a figure of this name is shown.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    head = ["arm", "epochs", "seeds", "time, side by side", "seconds per epoch", "minutes"]
    head += [text for name in names for text in (name.replace("_", " "), "difference (95 %)")]
    found = []
    for row in rows:
        cells = [
            row.arm,
            f"{row.epochs}" + (" (equal time)" if row.kind == "equal time" else ""),
            f"{row.seconds.runs}",
            f"{row.ratio:.2f}",
            f"{row.seconds.mean / row.epochs:.3g}",
            f"{row.seconds.mean / 60:.1f}",
        ]
        for name in names:
            form = show(name)
            figure, difference = row.figures.get(name), row.differences.get(name)
            cells.append(form.spread(figure) if figure else "")
            cells.append(form.difference(difference) if difference and row.kind != "baseline" else "")
        found.append(cells)
    return head, found


def sentences(rows: Sequence[ArmResult], show: Callable[[str], Form]) -> list[str]:
    """What the differences mean, one sentence for each, with the time an arm takes; and where runs took another."""
    if not rows or rows[0].kind != "baseline":
        return ["No run of the baseline is finished yet."]
    first, said, busy, intervals = rows[0], [], [], 0
    for row in rows[1:]:
        if row.kind == "equal epochs":
            place = f"{row.arm}, as many epochs ({row.epochs}), {row.ratio:.2f} of {first.arm}'s time"
        else:
            epochs = f"{several(row.epochs, 'epoch')}, {row.ratio:.2f} of the time of {first.arm}'s {first.epochs}"
            place = f"{row.arm}, equal time ({epochs})"
        said += [f"{place}: {_sentence(name, difference, show(name))}" for name, difference in row.differences.items()]
        intervals += sum(one is not None and EQUAL < one.half_width < math.inf for one in row.differences.values())
        if abs(row.took / row.ratio - 1) > BUSY:
            busy.append(f"{row.took:.2f} in place of {row.ratio:.2f} ({row.arm}, {several(row.epochs, 'epoch')})")
    if intervals > 1:
        said.append(f"These are {intervals} intervals: about one in twenty leaves zero out by chance alone.")
    if busy:
        said.append(
            f"The runs themselves took other parts of {first.arm}'s time than steps timed side by side: "
            f"{', '.join(busy)}. The machine did other work beside some, they ran on several, or were short."
        )
    return said


def _sentence(name: str, difference: PairedDifference | None, form: Form) -> str:
    figure = name.replace("_", " ")
    if difference is None:
        return f"{figure} has no seed in common with the baseline yet."
    said = f"{figure} {form.difference(difference)}"
    if difference.seeds == 1:
        return f"{said}; one seed tells nothing of noise."
    if difference.half_width <= EQUAL:
        return f"{said}; the same with all {difference.seeds} seeds, which tells nothing of noise."
    if difference.distinguishable:
        return f"{said}; more than noise, with {difference.seeds} seeds."
    least = form.number(difference.half_width)
    return f"{said}; not distinguishable from noise: with these {difference.seeds} seeds nothing below {least} is."
