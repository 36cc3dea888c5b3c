"""What a run says of itself, to its folder and to loggers, none of which can end it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hardviews.training.output.loggers import Logger
from hardviews.training.output.run_folder import RunFolder
from hardviews.wording import several


class Logbook:
    """Writes metrics, measurements and unreadable images. While the disk is full, rows are kept for the next time, and
    that is said once; a logger that fails is told nothing more.

    Args:
        folder: of the run.
        say: told what was measured, and what went wrong.
    """

    def __init__(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.loggers: list[Logger] = []  # TensorBoard and the like
        self._metrics: list[Mapping[str, float]] = []  # not written yet
        self._measured: list[tuple[int, int, Mapping[str, float]]] = []
        self._cut: int | None = None  # the step after which rows are to be dropped, and could not be yet
        self._failing: set[str] = set()  # files that could not be written the last time

    def config(self) -> None:
        """The settings that a run goes on with."""
        with self._unharmed(self.folder.config_file.name):
            self.folder.update_config()

    def metrics(self, rows: Sequence[Mapping[str, float]], shown: Mapping[str, float]) -> None:
        """Rows of steps, of which loggers are told one."""
        self._metrics += rows
        with self._unharmed(self.folder.metrics_file.name):
            self._drop()
            self.folder.append_metrics(self._metrics)
            self._metrics = []
        self.tell(lambda logger: logger.log(shown, shown["step"]))

    def measured(self, done: int, epochs: int, values: Mapping[str, float], text: str) -> None:
        """After ``done`` steps; ``text`` has the values in words."""
        self._say(f"after {several(epochs, 'epoch')}: {text}" if done else f"untrained: {text}")
        self._measured.append((done, epochs, values))
        with self._unharmed(self.folder.evaluation_file.name):
            self._drop()
            while self._measured:
                self.folder.append_evaluation(*self._measured[0])
                del self._measured[0]
        self.tell(lambda logger: logger.log(values, done))

    def images(self, unreadable: Mapping[str, str], cut_short: Mapping[str, str], process: int) -> None:
        """Path → what is said of an image, of those that this process came upon."""
        with self._unharmed("unreadable.csv"):
            self.folder.list_images("unreadable", unreadable, process)
        with self._unharmed("cut_short.csv"):
            self.folder.list_images("cut_short", cut_short, process)

    def forget_after(self, step: int) -> None:
        """Drops what is of later steps, which come again."""
        self._cut = step
        with self._unharmed(self.folder.metrics_file.name):
            self._drop()
        self._metrics = [row for row in self._metrics if row["step"] < step]
        self._measured = [entry for entry in self._measured if entry[0] <= step]

    def _drop(self) -> None:
        if self._cut is not None:
            self.folder.forget_after(self._cut)
            self._cut = None

    def tell(self, do: Callable[[Logger], None]) -> None:
        """Something that loggers are told."""
        for logger in list(self.loggers):
            try:
                do(logger)
            except Exception as error:
                self.loggers.remove(logger)
                self._say(f"{type(logger).__name__}: {' '.join(str(error).split())[:160]}; training goes on without it")

    def close(self) -> None:
        loggers, self.loggers = self.loggers, []
        for logger in loggers:
            with suppress(Exception):  # of a full disk, which ends no run
                logger.close()

    @contextmanager
    def _unharmed(self, name: str) -> Iterator[None]:
        try:
            yield
            self._failing.discard(name)
        except OSError as error:
            if name not in self._failing:
                self._say(f"{self.folder.path / name}: {error.strerror or error}; training goes on")
            self._failing.add(name)
