"""Plots as SVG for a page: text stays text, colours are CSS variables, and ids are unique in the page.

A plot has no title or legend; the page writes both, so that they wrap. Besides colours, markers distinguish runs, and
dashes distinguish measurements from what they are compared with.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hardviews.analysis.figure import MARKERS, RUNS, Bars, Figure, FigureTable, Key, Line, merged, number
from hardviews.telemetry.reading import Array

SIZE = (380, 228)  # of a plot, in CSS pixels, if the page has room
LETTER = 6.6  # assumed width of a letter, slightly more than in most fonts
DOT = 72  # SVG units per inch
# Drawing colours, and the CSS variables that replace them.
COLOURS = {"ink": "#010a01", "muted": "#010a02", "grid": "#010a03", "ground": "#010a04"} | {
    f"run-{number}": f"#010b{number:02x}" for number in range(RUNS)
}
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 12, "axes.labelsize": 12,
    "xtick.labelsize": 11.5, "ytick.labelsize": 11.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"], "axes.labelcolor": COLOURS["muted"], "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"], "ytick.color": COLOURS["muted"], "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"], "grid.color": COLOURS["grid"], "grid.linewidth": 0.8, "axes.axisbelow": True,
    "lines.linewidth": 2, "lines.markersize": 5, "lines.solid_capstyle": "round", "axes.facecolor": "none",
    "figure.facecolor": "none", "hatch.linewidth": 0.8,
}  # fmt: skip


def lines(
    name: str, title: str, caption: str, drawn: Sequence[Line], *, unit: str = "", percent: bool = False,
    x_label: str = "epoch", zero: bool = False,
) -> Figure:  # fmt: skip
    """Draws lines over epochs.

    Args:
        name, title, caption: of the figure.
        drawn: lines; those without any number are left out.
        unit: written above the y axis.
        percent: whether values are fractions in 0..1.
        x_label: below the x axis.
        zero: start the y axis at 0.
    """
    drawn = merged([line for line in drawn if np.isfinite(line.y).any()])
    several = len({line.run for line in drawn if not line.compared}) > 1

    def marked(line: Line) -> bool:
        return len(line.x) <= 12 or (several and not line.compared)

    with _canvas(SIZE) as (canvas, axes):
        for line in sorted(drawn, key=lambda line: not line.compared):  # the main lines on top
            axes.plot(
                line.x, line.y, color=COLOURS[line.colour], linestyle="--" if line.compared else "-",
                marker=line.marker if marked(line) else "", markevery=1 if len(line.x) <= 12 else len(line.x) // 6,
                markerfacecolor=COLOURS["ground"] if line.compared else COLOURS[line.colour],
            )  # fmt: skip
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        _count(axes, percent, zero)
        x = np.concatenate([line.x for line in drawn])
        if len(np.unique(x)) == 1:
            axes.set_xlim(x[0] - 0.5, x[0] + 0.5)
        axes.set_xlabel(x_label)
        _unit(axes, unit)
        svg = _svg(canvas, name, title, caption)
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
    with _canvas(SIZE) as (canvas, axes):
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
        svg = _svg(canvas, name, title, caption)
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
    with _canvas((SIZE[0], height)) as (canvas, axes):
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
        svg = _svg(canvas, name, title, caption)
    keys = [Key(group.label, f"run-{group.run % RUNS}", marker="■") for group in groups] if len(groups) > 1 else []
    rows = [[label, *(group.written[row] for group in groups)] for row, label in enumerate(labels)]
    return Figure(name, title, caption, svg, keys, FigureTable([head, *(group.label for group in groups)], rows))


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


@contextmanager
def _canvas(size: tuple[int, int]) -> Iterator[tuple[Canvas, Axes]]:
    settings: Any = STYLE  # matplotlib's type for it is a Literal of some hundred names
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(size[0] / DOT, size[1] / DOT), dpi=DOT, layout="constrained")
        yield canvas, canvas.add_subplot()


def _count(axes: Axes, percent: bool, zero: bool) -> None:
    """Formats the value axis."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    if zero:
        highest = max(float(np.nanmax(line.get_ydata(), initial=0)) for line in axes.lines) if axes.lines else 0.0
        axes.set_ylim(0, max(axes.get_ylim()[1], highest * 1.08, 1e-9))
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


def _svg(canvas: Canvas, name: str, title: str, caption: str) -> str:
    """The SVG with title and description, ids prefixed by its name, and CSS variables for colours."""
    buffer = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        canvas.savefig(buffer, format="svg", metadata=nothing)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # A style element in an SVG would apply to the entire page; the page has its own style.
    drawn = re.sub(r"<(metadata|style)\b.*?</\1>", "", drawn, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', drawn)
    head = (
        f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(caption)}</desc>'
    )
    drawn = drawn[drawn.index(">") + 1 :].replace("xlink:href", "href")
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r"url\(#", f"url(#{name}-", drawn)
    drawn = re.sub(r'href="#', f'href="#{name}-', drawn)
    for colour, hexadecimal in COLOURS.items():
        drawn = drawn.replace(hexadecimal, f"var(--{colour})")
    # The page sets the fonts.
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", drawn)
    return head + re.sub(r"\n\s*", "\n", drawn)
