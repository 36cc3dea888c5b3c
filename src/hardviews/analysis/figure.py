"""Building blocks of figures: lines and bars of runs, legends, captions and tables."""

from collections.abc import Sequence
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
    """

    label: str
    x: Array
    y: Array
    run: int = 0
    compared: bool = False
    plain: bool = False

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
