"""What figures are made of: lines and bars of runs, and all that makes a plot understood."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hardviews.telemetry.reading import Array

MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
RUNS = len(MARKERS)  # colours there are


@dataclass(frozen=True)
class Key:
    """An entry of a legend, which the page draws.

    Args:
        label: what it says.
        colour: a name of ``drawing.COLOURS``.
        dashed: what others are compared with.
        marker: a character.
    """

    label: str
    colour: str
    dashed: bool = False
    marker: str = ""


@dataclass(frozen=True)
class FigureTable:
    """Numbers behind a plot: a head, and rows whose first cell heads them."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A plot with all that makes it understood.

    Args:
        name: unique in a page.
        title: of a few words.
        caption: what it shows and its key figures, in words: the plot's text alternative.
        svg: to be put into a page as it is.
        legend: empty where there is nothing to tell apart.
        table: None where it would be too long.
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
        x, y: numbers ``[n]``; NaN of y are gaps.
        run: number of the run, which has a colour and a marker.
        compared: dashed: a random choice, a mean, a baseline.
        plain: grey, whatever its run.
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
        """The run's; the second eight runs have their colours with other markers."""
        return list(MARKERS)[(self.run + self.run // RUNS) % RUNS]


def number(value: float, percent: bool = False) -> str:
    """As a reader wants it: three or four digits, ``–`` where it is not known."""
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
    """A difference: with its sign, and no sign where it is nothing."""
    if not np.isfinite(value):
        return "–"
    rounded = round(float(value), digits)
    return (f"{rounded:{plus}.{digits}f}" if rounded else f"{0:.{digits}f}").replace("-", "−")


@dataclass(frozen=True, eq=False)
class Bars:
    """A run's bars: a value, what is written beside it, and how far it may be off, for every label."""

    label: str
    values: Array
    written: list[str]
    run: int = 0
    spread: Array | None = None


def merged(drawn: Sequence[Line]) -> list[Line]:
    """Lines that runs are compared with, once where they are the same: of one seed runs draw the same candidates."""
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
        elif len(groups) == 1:  # one for all
            found.append(replace(group[0], label=parts[0][2], plain=True))
        else:
            names = " and ".join(name for name, _, _ in parts)
            found.append(replace(group[0], label=f"{names}, {parts[0][2]}"))
    return found


def _same(one: Line, other: Line) -> bool:
    if one.x.shape != other.x.shape or not np.array_equal(one.x, other.x):
        return False
    return bool(np.allclose(one.y, other.y, 1e-6, equal_nan=True))
