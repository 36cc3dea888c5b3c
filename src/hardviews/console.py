"""What is printed: lines, progress bars, numbers with their nouns. Results are printed by the verbs."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hardviews.launch.environment import rank

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str], None]
NARROWEST = 40  # columns, below which lines are not wrapped


def say(line: str) -> None:
    """Prints a line on standard error, since standard output may be JSON; of several processes, only rank 0 prints."""
    if rank() == 0:
        complain(line)


def complain(line: str) -> None:
    """Prints a line on standard error, also in processes other than the first."""
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    print(wrapped(line, width), file=sys.stderr)


def printer(console: "Console") -> Say:
    """Prints lines on a console: paths and names in them are no markup, and a terminal's edge splits no word."""
    width = console.width if console.is_terminal and not console.is_jupyter else None
    write = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    return lambda line: write(wrapped(line, width))


def wrapped(text: str, width: int | None, indent: int = 2) -> str:
    """Lines that end between words, the second and further ones indented; as it is without a width.

    Args:
        text: of one or more lines, which keep their own indent.
        width: in characters; a word that is longer, such as a path, is left whole.
        indent: of what follows a line's first part.
    """
    if width is None or width < NARROWEST:  # a pipe, or a terminal that says nothing of itself
        return text
    found = []
    for line in text.split("\n"):
        further = " " * (len(line) - len(line.lstrip()) + indent)
        parts = textwrap.wrap(
            line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False, expand_tabs=False,
        )  # fmt: skip
        found += parts or [line]
    return "\n".join(found)


def show_table(console: "Console", head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table; on a terminal that is too narrow for it, a block for every row, one line for each cell.

    Args:
        console: to print on.
        head: names of the columns, of which the first is what a row is of.
        rows: as many cells each; empty ones are left out of blocks.
        title: printed above.
    """
    # Imported only here: help needs none of it.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    columns = list(zip(head, *rows, strict=True))
    width = sum(max(map(cell_len, column)) + 3 for column in columns) + 1  # with a space and a line at each side
    if title:
        printer(console)(title)
    if console.is_terminal and width > console.width:
        indent, write = max(map(cell_len, head)) + 2, printer(console)
        for first, *others in rows:
            write(first)
            for name, cell in zip(head[1:], others, strict=True):
                if cell:
                    write(f"  {name:{indent}}{cell}")
        return
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width that the table has to fit.
    (console if console.is_terminal else Console(file=console.file, width=max(width, 80))).print(table)


def duration(seconds: float) -> str:
    """Seconds in a readable unit: ``90 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def shows_bars(console: "Console") -> bool:
    """Whether bars move there: on a terminal, and in a notebook with ipywidgets, which rich needs there."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


@contextmanager
def progress_bars(show: bool = True) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Yields a function that starts a bar of a name and a length, and returns what advances it by a number of parts.

    Bars are shown on standard error if it is a terminal, and in notebooks: a pipe gets results only.
    """
    # Imported only here: help needs none of it.
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not show or not shows_bars(console):
        yield lambda _name, _length: lambda _done: None
        return
    with Progress(console=console, transient=True) as bars:

        def start(name: str, length: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=length)
            return lambda done: bars.advance(task, done)

        yield start
