"""Progress bars of verbs that take their time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from hardviews.evaluation.bench import silent


@contextmanager
def shown_progress(show: bool = True) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Starts a bar for a task of a name and a length, and gives what is to be told of every part done.

    Bars are shown on standard error where that is a terminal, and nowhere else: a pipe gets results alone.
    """
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield silent
        return
    with Progress(console=console, transient=True) as bars:

        def started(name: str, length: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=length)
            return lambda done: bars.advance(task, done)

        yield started
