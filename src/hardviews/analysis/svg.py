"""Plots as SVG for a page: text stays text, colours are CSS variables, and ids are unique in the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from hardviews.analysis.figure import RUNS

SIZE = (420, 256)  # of a plot, in CSS pixels, if the page has room
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


@contextmanager
def canvas_of(size: tuple[int, int]) -> Iterator[tuple[Canvas, Axes]]:
    settings: Any = STYLE  # matplotlib's type for it is a Literal of some hundred names
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(size[0] / DOT, size[1] / DOT), dpi=DOT, layout="constrained")
        yield canvas, canvas.add_subplot()


def as_svg(canvas: Canvas, name: str, title: str, caption: str) -> str:
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
