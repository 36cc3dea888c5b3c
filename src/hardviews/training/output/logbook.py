"""Writes a run's figures to its folder and to loggers; none of their errors can end the run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hardviews.training.output.loggers import Logger
from hardviews.training.output.run_folder import RunFolder
from hardviews.wording import several

COSTS = ("images_per_second", "memory")  # what a step takes


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """A step's figures by the names that loggers show in groups: ``train/loss``, ``views/iou_kept``, ``time/score``."""

    def name(own: str) -> str:
        if own.startswith("seconds_"):
            return f"time/{own.removeprefix('seconds_')}"
        group = "views" if own.startswith(("iou_", "cost_")) else "time" if own in COSTS else "train"
        return f"{group}/{own}"

    return {name(own): value for own, value in values.items() if own not in ("step", "epoch")}


class Logbook:
    """Writes metrics, measurements and unreadable images. While the disk is full, it reports that once and keeps rows
    for the next attempt. It stops using a logger that fails.

    Args:
        folder: of the run.
        say: prints measurements and errors.
    """

    def __init__(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.loggers: list[Logger] = []  # TensorBoard and others
        self._metrics: list[Mapping[str, float]] = []  # not yet written
        self._measured: list[tuple[int, int, Mapping[str, float]]] = []
        self._cut: int | None = None  # step after which rows must still be dropped
        self._failing: set[str] = set()  # files whose last write failed

    def config(self) -> None:
        """Writes the settings that a run resumes with."""
        with self._reporting_once(self.folder.config_file.name):
            self.folder.update_config()

    def metrics(self, rows: Sequence[Mapping[str, float]], shown: Mapping[str, float]) -> None:
        """Writes rows of steps; loggers get only ``shown``."""
        self._metrics += rows
        with self._reporting_once(self.folder.metrics_file.name):
            self._drop()
            self.folder.append_metrics(self._metrics)
            self._metrics = []
        # A row is of the step that begins at its number; loggers count steps done, as measurements do.
        self.to_loggers(lambda logger: logger.log(grouped(shown), shown["step"] + 1))

    def measured(self, done: int, epochs: int, values: Mapping[str, float], text: str) -> None:
        """Logs a measurement after ``done`` steps; ``text`` has its values in words."""
        self._say(f"after {several(epochs, 'epoch')}: {text}" if done else f"untrained: {text}")
        self._measured.append((done, epochs, values))
        with self._reporting_once(self.folder.evaluation_file.name):
            self._drop()
            while self._measured:
                self.folder.append_evaluation(*self._measured[0])
                del self._measured[0]
        self.to_loggers(lambda logger: logger.log({f"eval/{name}": value for name, value in values.items()}, done))

    def images(self, unreadable: Mapping[str, str], cut_short: Mapping[str, str], process: int) -> None:
        """Lists images: path → message, for those that this process met."""
        with self._reporting_once("unreadable.csv"):
            self.folder.list_images("unreadable", unreadable, process)
        with self._reporting_once("cut_short.csv"):
            self.folder.list_images("cut_short", cut_short, process)

    def drop_after(self, step: int) -> None:
        """Drops rows of later steps, which the run will repeat."""
        self._cut = step
        with self._reporting_once(self.folder.metrics_file.name):
            self._drop()
        self._metrics = [row for row in self._metrics if row["step"] < step]
        self._measured = [entry for entry in self._measured if entry[0] <= step]

    def _drop(self) -> None:
        if self._cut is not None:
            self.folder.drop_after(self._cut)
            self._cut = None

    def to_loggers(self, do: Callable[[Logger], None]) -> None:
        """Calls a function on every logger."""
        for logger in list(self.loggers):
            try:
                do(logger)
            except Exception as error:
                self.loggers.remove(logger)
                self._say(
                    f"{type(logger).__name__}: {' '.join(str(error).split())[:160]}; training continues without it"
                )

    def close(self) -> None:
        loggers, self.loggers = self.loggers, []
        for logger in loggers:
            with suppress(Exception):  # a full disk, for example, which must not end the run
                logger.close()

    @contextmanager
    def _reporting_once(self, name: str) -> Iterator[None]:
        try:
            yield
            self._failing.discard(name)
        except OSError as error:
            if name not in self._failing:
                self._say(f"{self.folder.path / name}: {error.strerror or error}; training continues")
            self._failing.add(name)
