"""Building blocks of figures: lines and bars of runs, legends, captions and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hardviews.telemetry.reading import Array

MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
RUNS = len(MARKERS)  # number of colours


@dataclass(frozen=True)
class Key:
    """An entry of a legend, which the page draws.

    Args:
        label: its text.
        colour: a name in ``drawing.COLOURS``.
        dashed: whether it is a line to compare with.
        marker: a character.
    """

    label: str
    colour: str
    dashed: bool = False
    marker: str = ""


@dataclass(frozen=True)
class FigureTable:
    """The numbers of a plot: a header, and rows whose first cell is their heading."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A plot with its caption, legend and table.

    Args:
        name: unique in a page.
        title: a few words.
        caption: what it shows and its key figures in words: the plot's text alternative.
        svg: inserted into the page unchanged.
        legend: empty if there is nothing to distinguish.
        table: None if it would be too long.
    """

    name: str
    title: str
    caption: str
    svg: str
    legend: list[Key] = field(default_factory=list)
    table: FigureTable | None = None


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a plot.

    Args:
        label: in the legend and the table.
        x, y: numbers ``[n]``; NaN in y makes a gap.
        run: index of the run, which determines colour and marker.
        compared: dashed: a random choice, a mean, a baseline.
        plain: grey, instead of the run's colour.
        low, high: a band around y, ``[n]``.
    """

    label: str
    x: Array
    y: Array
    run: int = 0
    compared: bool = False
    plain: bool = False
    low: Array | None = None
    high: Array | None = None

    @property
    def colour(self) -> str:
        return "muted" if self.plain else f"run-{self.run % RUNS}"

    @property
    def marker(self) -> str:
        """The run's marker; runs 9 to 16 repeat the colours with other markers."""
        return list(MARKERS)[(self.run + self.run // RUNS) % RUNS]


def number(value: float, percent: bool = False) -> str:
    """Formats a number with three or four digits; ``–`` if it is unknown."""
    if not np.isfinite(value):
        return "–"
    if percent:
        return f"{value:.1%}"
    if value == 0 or 0.001 <= abs(value) < 1000:
        text = f"{value:#.3g}".rstrip(".") if value else "0"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"
    return text.replace("-", "−")


def signed(value: float, digits: int, plus: str = "+") -> str:
    """Formats a difference with its sign; no sign if it rounds to 0."""
    if not np.isfinite(value):
        return "–"
    rounded = round(float(value), digits)
    return (f"{rounded:{plus}.{digits}f}" if rounded else f"{0:.{digits}f}").replace("-", "−")


@dataclass(frozen=True, eq=False)
class Bars:
    """A run's bars: for every label a value, the text beside it, and its error."""

    label: str
    values: Array
    written: list[str]
    run: int = 0
    spread: Array | None = None


@dataclass(frozen=True)
class Interval:
    """A value with the interval around it, a row of a plot.

    Args:
        label: of the row.
        value, low, high: low and high may be infinite: then there are no whiskers.
        written: the value in words.
        run: determines colour and marker.
        compared: grey, since it is what others are compared with.
    """

    label: str
    value: float
    low: float
    high: float
    written: str
    run: int = 0
    compared: bool = False


def averaged_bars(groups: Sequence[Bars], write: Callable[[float], str]) -> list[Bars]:
    """Bars of one run and label, such as those of several seeds, become their mean; its error is that of a mean of
    independent values."""
    found = []
    for run, label in dict.fromkeys((group.run, group.label) for group in groups):
        some = [group for group in groups if (group.run, group.label) == (run, label)]
        if len(some) > 1:
            values = np.mean([group.values for group in some], 0)
            spreads = [group.spread for group in some if group.spread is not None]
            spread = np.sqrt(np.sum(np.square(spreads), 0)) / len(some) if len(spreads) == len(some) else None
            some = [Bars(label, values, [write(float(value)) for value in values], run, spread)]
        found += some
    return found


def averaged(drawn: Sequence[Line]) -> list[Line]:
    """Lines of one run and label, such as those of several seeds, become their mean with a band from the lowest to the
    highest."""
    groups: dict[tuple[int, str, bool], list[Line]] = {}
    for line in drawn:
        groups.setdefault((line.run, line.label, line.compared), []).append(line)
    return [group[0] if len(group) == 1 else _mean_of(group) for group in groups.values()]


def _mean_of(group: Sequence[Line]) -> Line:
    x = np.unique(np.concatenate([line.x for line in group]))
    y = np.full((len(group), len(x)), np.nan)
    for row, line in zip(y, group, strict=True):
        row[np.searchsorted(x, line.x)] = line.y
    known = np.isfinite(y).any(0)
    x, y = x[known], y[:, known]
    return replace(group[0], x=x, y=np.nanmean(y, 0), low=np.nanmin(y, 0), high=np.nanmax(y, 0))


def merged(drawn: Sequence[Line]) -> list[Line]:
    """Merges equal lines to compare with: runs with the same seed draw the same candidates."""
    groups: list[list[Line]] = []
    for line in drawn:
        if line.compared:
            same = next((group for group in groups if _same(group[0], line)), None)
            if same is None:
                groups.append([line])
            else:
                same.append(line)
    found = [line for line in drawn if not line.compared]
    for group in groups:
        parts = [line.label.rpartition(", ") for line in group]
        if len(group) == 1:
            found += group
        elif len(groups) == 1:  # one line for all runs
            found.append(replace(group[0], label=parts[0][2], plain=True))
        else:
            names = " and ".join(name for name, _, _ in parts)
            found.append(replace(group[0], label=f"{names}, {parts[0][2]}"))
    return found


def _same(one: Line, other: Line) -> bool:
    if one.x.shape != other.x.shape or not np.array_equal(one.x, other.x):
        return False
    return bool(np.allclose(one.y, other.y, 1e-6, equal_nan=True))
