"""A run's progress: a bar in a terminal or a notebook, otherwise a line per epoch."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hardviews.console import shows_bars


class ProgressReport:
    """Shows steps, images/s, time left, loss, and the IoU of kept and random views.

    Args:
        console: to write to.
        steps: of the entire run; ``done`` of them are already done.
        steps_per_epoch: steps in a pass over the data.
        enabled: False in all processes but the first.
    """

    def __init__(self, console: Console, steps: int, steps_per_epoch: int, done: int, enabled: bool) -> None:
        self._console, self._steps, self._per_epoch = console, steps, steps_per_epoch
        bars = shows_bars(console)
        self._lines = enabled and not bars
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not enabled or not bars,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, epoch=self._epoch(done), figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _epoch(self, done: int) -> str:
        return f"{min(self._steps, done + self._per_epoch) // self._per_epoch}/{self._steps // self._per_epoch}"

    def update(self, done: int, row: Mapping[str, float]) -> None:
        """Shows that ``done`` steps are done; ``row`` has the latest metrics."""
        figures = f"{row['images_per_second']:.0f} img/s  loss {row['loss']:.3f}"
        if row["iou_kept"] != row["iou_random"]:
            figures += f"  IoU kept {row['iou_kept']:.2f} random {row['iou_random']:.2f}"
        self._bar.update(self._task, completed=done, epoch=self._epoch(done), figures=figures)
        if self._lines and done % self._per_epoch == 0:
            self.say(f"epoch {done // self._per_epoch}/{self._steps // self._per_epoch}  {figures}")

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
