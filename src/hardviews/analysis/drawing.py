"""Plots: lines, histograms, bars, and values with intervals.

A plot has no title or legend; the page writes both, so that they wrap. Besides colours, markers distinguish runs, and
dashes distinguish measurements from what they are compared with. No axis is cut so that noise looks like a signal:
shares start at 0, differences show 0, and others span a part of their value.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hardviews.analysis.figure import (
    MARKERS,
    RUNS,
    Bars,
    Figure,
    FigureTable,
    Interval,
    Key,
    Line,
    averaged,
    merged,
    number,
)
from hardviews.analysis.svg import COLOURS, LETTER, SIZE, as_svg, canvas_of
from hardviews.telemetry.reading import Array

LEAST_SPAN = 0.2  # of an axis that need not show 0, as a part of its largest value


def lines(
    name: str, title: str, caption: str, drawn: Sequence[Line], *, unit: str = "", percent: bool = False,
    x_label: str = "epoch", zero: bool = False, noise: float | None = None,
) -> Figure:  # fmt: skip
    """Draws lines over epochs; of lines with one label, which differ in their seed, the mean and the range.

    Args:
        name, title, caption: of the figure.
        drawn: lines; those without any number are left out.
        unit: written above the y axis.
        percent: whether values are fractions in 0..1.
        x_label: below the x axis.
        zero: start the y axis at 0.
        noise: of differences: the y axis shows 0 and at least this much to both sides.
    """
    drawn = merged(averaged([line for line in drawn if np.isfinite(line.y).any()]))
    several = len({line.run for line in drawn if not line.compared}) > 1
    if any(line.low is not None for line in drawn):
        caption += " Of several seeds: their mean, and a band from the lowest to the highest."

    def marked(line: Line) -> bool:
        return len(line.x) <= 12 or (several and not line.compared)

    with canvas_of(SIZE) as (canvas, axes):
        for line in sorted(drawn, key=lambda line: not line.compared):  # the main lines on top
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=COLOURS[line.colour], alpha=0.18, linewidth=0)
            axes.plot(
                line.x, line.y, color=COLOURS[line.colour], linestyle="--" if line.compared else "-",
                marker=line.marker if marked(line) else "", markevery=1 if len(line.x) <= 12 else len(line.x) // 6,
                markerfacecolor=COLOURS["ground"] if line.compared else COLOURS[line.colour],
            )  # fmt: skip
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=x_label == "epoch", min_n_ticks=1))
        if noise is not None:
            axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        _count(axes, percent, zero, noise)
        x = np.concatenate([line.x for line in drawn])
        if len(np.unique(x)) == 1:
            axes.set_xlim(x[0] - 0.5, x[0] + 0.5)
        axes.set_xlabel(x_label)
        _unit(axes, unit)
        svg = as_svg(canvas, name, title, caption)
    keys = [Key(line.label, line.colour, line.compared, MARKERS[line.marker] if marked(line) else "") for line in drawn]
    return Figure(name, title, caption, svg, keys if len(keys) > 1 else [], _table(drawn, x_label, percent))


def histogram(
    name: str, title: str, caption: str, drawn: Sequence[Line], edges: Array, *, unit: str, x_label: str
) -> Figure:
    """Draws outlines of histograms as fractions per bin; fills the main one if there is one run.

    Args:
        name, title, caption: of the figure.
        drawn: ``y`` ``[bins]`` are the fractions, ``x`` the bins' centres.
        edges: ``[bins + 1]``.
        unit: of the counts.
        x_label: of the x axis.
    """
    drawn = merged(drawn)
    with canvas_of(SIZE) as (canvas, axes):
        alone = sum(not line.compared for line in drawn) == 1
        for line in drawn:
            fill = alone and not line.compared
            axes.stairs(
                line.y, edges, color=COLOURS[line.colour], linestyle="--" if line.compared else "-", linewidth=2,
                fill=fill, alpha=0.55 if fill else 1,
            )  # fmt: skip
        axes.grid(axis="y")
        axes.set_xlim(edges[0], edges[-1])
        _count(axes, True, True)
        axes.set_xlabel(x_label)
        _unit(axes, unit)
        svg = as_svg(canvas, name, title, caption)
    keys = [Key(line.label, line.colour, line.compared) for line in drawn]
    return Figure(name, title, caption, svg, keys, _table(drawn, x_label, True))


def bars(
    name: str, title: str, caption: str, labels: Sequence[str], groups: Sequence[Bars], *, x_label: str, head: str
) -> Figure:
    """Draws horizontal bars, one per label and run, first label on top, with their values beside them.

    Args:
        name, title, caption: of the figure.
        labels: of the rows.
        groups: one per run.
        x_label: below the axis.
        head: heading of the labels in the table.
    """
    thick = 0.8 / len(groups)
    height = 62 + len(labels) * max(22, 15 * len(groups) + 6)
    with canvas_of((SIZE[0], height)) as (canvas, axes):
        for place, group in enumerate(groups):
            at = np.arange(len(labels)) + (place - (len(groups) - 1) / 2) * thick
            axes.barh(
                at, group.values, thick * 0.88, color=COLOURS[f"run-{group.run % RUNS}"], xerr=group.spread,
                error_kw={"ecolor": COLOURS["muted"], "elinewidth": 1.2},
            )  # fmt: skip
            spread = np.zeros(len(labels)) if group.spread is None else group.spread
            for y, value, off, text in zip(at, group.values, spread, group.written, strict=True):
                if np.isfinite(value):
                    end = value - off if value < 0 else value + off
                    side = "right" if value < 0 else "left"
                    shift = (-3 if value < 0 else 3, 0)
                    axes.annotate(text, (end, y), shift, textcoords="offset points", ha=side, va="center", fontsize=11)
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        axes.set_xlim(*_reach(labels, groups))
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.grid(axis="x")
        axes.set_xlabel(x_label)
        svg = as_svg(canvas, name, title, caption)
    keys = [Key(group.label, f"run-{group.run % RUNS}", marker="■") for group in groups] if len(groups) > 1 else []
    rows = [[label, *(group.written[row] for group in groups)] for row, label in enumerate(labels)]
    return Figure(name, title, caption, svg, keys, FigureTable([head, *(group.label for group in groups)], rows))


def intervals(
    name: str, title: str, caption: str, drawn: Sequence[Interval], *, x_label: str, head: str, percent: bool = False,
    least: float = 0.0,
) -> Figure:  # fmt: skip
    """Draws values as points with whiskers, one per row, the first on top; the axis shows 0.

    Args:
        name, title, caption: of the figure.
        drawn: at least one.
        x_label: below the axis.
        head: heading of the labels in the table.
        percent: whether values are fractions in 0..1.
        least: the axis reaches at least this far from 0.
    """
    ends = np.array([[one.value, one.low, one.high] for one in drawn])
    ends = ends[np.isfinite(ends)]
    low, high = min(0.0, float(ends.min(initial=0))), max(0.0, float(ends.max(initial=0)))
    low, high = (min(low, -least) if low < 0 else low), max(high, least)
    with canvas_of((SIZE[0], 62 + 34 * len(drawn))) as (canvas, axes):
        for place, one in enumerate(drawn):
            colour = COLOURS["muted" if one.compared else f"run-{one.run % RUNS}"]
            whiskers = [[max(one.value - one.low, 0)], [max(one.high - one.value, 0)]]
            known = bool(np.isfinite(whiskers).all())
            axes.errorbar(
                one.value, place, xerr=whiskers if known else None, color=colour, ecolor=colour, elinewidth=2,
                capsize=4, capthick=2, markersize=8, marker=list(MARKERS)[one.run % RUNS],
            )  # fmt: skip
            axes.annotate(
                one.written, (one.value, place), (0, 8), textcoords="offset points", ha="center", fontsize=11.5,
                bbox={"facecolor": COLOURS["ground"], "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        span = max(high - low, 1e-9)
        room = LETTER * max(len(one.written) for one in drawn) / 2 / (SIZE[0] - 40)
        longest = max(len(one.label) for one in drawn)
        room *= SIZE[0] / max(SIZE[0] - LETTER * longest, 80)
        axes.set_xlim(low - (room * span if low < 0 else 0.0), high + room * span)
        axes.set_yticks(range(len(drawn)), [one.label for one in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.75)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        if percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.grid(axis="x")
        axes.set_xlabel(x_label)
        svg = as_svg(canvas, name, title, caption)
    rows = [[one.label, one.written, f"{number(one.low, percent)} to {number(one.high, percent)}"] for one in drawn]
    return Figure(name, title, caption, svg, [], FigureTable([head, "value", "95 % interval"], rows))


def _reach(labels: Sequence[str], groups: Sequence[Bars]) -> tuple[float, float]:
    """Limits of the value axis, with room for the text beside bars on both sides of 0."""
    least, most, room = 0.0, 1e-12, [0.0, 0.0]
    wide = SIZE[0] - LETTER * max(map(len, labels)) - 20
    for group in groups:
        spread = np.zeros(len(labels)) if group.spread is None else group.spread
        for value, off, text in zip(group.values, spread, group.written, strict=True):
            if np.isfinite(value):
                least, most = min(least, value - off), max(most, value + off)
                side = int(value >= 0)
                room[side] = max(room[side], (LETTER * len(text) + 6) / wide)
    span = (most - least) / (1 - min(sum(room), 0.8))
    return least - room[0] * span, most + room[1] * span


def _count(axes: Axes, percent: bool, zero: bool, noise: float | None = None) -> None:
    """Formats the value axis and sets its limits."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    low, high = axes.get_ylim()
    if noise is not None:
        axes.set_ylim(min(low, -noise), max(high, noise))
    elif zero:
        highest = max(float(np.nanmax(line.get_ydata(), initial=0)) for line in axes.lines) if axes.lines else 0.0
        axes.set_ylim(0, max(high, highest * 1.08, 1e-9))
    else:
        missing = max(LEAST_SPAN * max(abs(low), abs(high)) - (high - low), 0) / 2
        axes.set_ylim(low - missing, high + missing)
    if percent:
        low, high = axes.get_ylim()
        digits = 0 if high - low > 0.025 else 1 if high - low > 0.0025 else 2
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}%}"))


def _unit(axes: Axes, unit: str) -> None:
    """Writes the unit above the axis, since rotated text is hard to read."""
    axes.set_title(unit, loc="left", fontsize=11.5, color=COLOURS["muted"], pad=7)


def _table(drawn: Sequence[Line], x_label: str, percent: bool, most: int = 30) -> FigureTable | None:
    """One row for every x of any line."""
    every = np.unique(np.concatenate([line.x for line in drawn])) if drawn else np.zeros(0)
    if not 0 < len(every) <= most:
        return None
    columns = [dict(zip(line.x.tolist(), line.y.tolist(), strict=True)) for line in drawn]
    rows = [[f"{x:.4g}", *(number(column.get(x, np.nan), percent) for column in columns)] for x in every.tolist()]
    return FigureTable([x_label, *(line.label for line in drawn)], rows)
