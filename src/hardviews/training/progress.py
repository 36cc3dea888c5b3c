"""A run's progress: a bar in a terminal or a notebook, otherwise a line per epoch."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hardviews.console import printer, shows_bars

BAR = 6  # characters that the bar has at least


class ProgressReport:
    """Shows epochs, steps, time left, loss, the IoU of kept and random views, and images/s: what a terminal has no room
    for is left out, the last of these first.

    Args:
        console: to write to.
        steps: of the entire run; ``done`` of them are already done.
        steps_per_epoch: steps in a pass over the data.
        enabled: False in all processes but the first.
    """

    def __init__(self, console: Console, steps: int, steps_per_epoch: int, done: int, enabled: bool) -> None:
        self._steps, self._per_epoch = steps, steps_per_epoch
        bars = shows_bars(console)
        self._lines = enabled and not bars
        self.say = printer(console)
        # The parts never break, so that the bar alone gives way.
        self._bar = Progress(
            TextColumn("{task.fields[place]}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            TextColumn("left{task.fields[figures]}"),
            console=console,
            disable=not enabled or not bars,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, place=self._place(done), figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _epoch(self, done: int) -> str:
        return f"{min(self._steps, done + self._per_epoch) // self._per_epoch}/{self._steps // self._per_epoch}"

    def _place(self, done: int) -> str:
        return f"epoch {self._epoch(done)} step {done:{len(str(self._steps))}}/{self._steps}"

    def move(self, done: int) -> None:
        """Shows that ``done`` steps are done."""
        self._bar.update(self._task, completed=done, place=self._place(done))

    def update(self, done: int, row: Mapping[str, float]) -> None:
        """Shows the latest metrics, after ``done`` steps."""
        figures = [f"loss {row['loss']:.3f}"]
        if row["iou_kept"] != row["iou_random"]:
            figures.append(f"IoU {row['iou_kept']:.2f} random {row['iou_random']:.2f}")
        figures.append(f"{row['images_per_second']:.0f} images/s")
        self._bar.update(self._task, figures=self._fitting(done, figures))
        if self._lines and done % self._per_epoch == 0:
            self.say("  ".join([f"epoch {self._epoch(done - 1)}", *figures]))

    def _fitting(self, done: int, figures: Sequence[str]) -> str:
        """The first of the figures, as many as the terminal has room for beside bar and time."""
        room = self._bar.console.width - len(f"{self._place(done)}  0:00:00 left ") - BAR
        text = ""
        for figure in figures:
            if len(text) + 2 + len(figure) > room:
                break
            text += f"  {figure}"
        return text
