"""The loop around the step: data, metrics, checkpoints, measurements during training."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from rich.console import Console

from hardviews.console import printer
from hardviews.data.loading.loader import Loader, moved
from hardviews.data.sources import fingerprint
from hardviews.data.sources.streams import Stream
from hardviews.errors import RunError, StoppedError
from hardviews.launch.signals import StopRequest
from hardviews.telemetry.recording import Recorder
from hardviews.training.collapse import CollapseWatch
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.diverging import DivergenceWatch
from hardviews.training.memory import held, is_out_of_memory
from hardviews.training.monitor import Monitor
from hardviews.training.output.logbook import Logbook
from hardviews.training.output.loggers import Logger
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.output.saving import DivergedError, Origin, Saver
from hardviews.training.progress import ProgressReport
from hardviews.training.step import Step, StepReport
from hardviews.training.stopwatch import Stopwatch
from hardviews.views.images import ImageBatch
from hardviews.wording import several

LOWER = 0.1  # factor on the learning rate after going back to a checkpoint
REREADING = 86_400.0  # maximum seconds to read a large stream's epoch again


@dataclass
class Loop:
    """Runs the step over the data to the last step, starting at the run folder's checkpoint.

    Args:
        fabric: launched.
        step: trains on a batch.
        loader: yields this process's images for every step.
        folder: opened; only the first process writes.
        epochs: passes over the data.
        monitor: measures the backbone, and says when to show a gallery.
        checkpoint_steps: also save every N steps; 0 for epochs only.
        keep_epochs: keep every n-th epoch's checkpoint permanently; 0 for none.
        max_nonfinite_steps: maximum consecutive skipped steps before the run goes back to its last checkpoint.
        log_steps: fetch metrics from the device and write them every N steps.
        open_loggers: opens loggers such as TensorBoard in the first process, at the step where the run starts or
            resumes.
        telemetry: the step's observer; it writes at the end of epochs and before checkpoints.
        console: shows progress.
        origin: the run that this one extends, until it has a checkpoint of its own.
    """

    fabric: Fabric
    step: Step
    loader: Loader
    folder: RunFolder
    epochs: int
    monitor: Monitor
    checkpoint_steps: int
    keep_epochs: int
    max_nonfinite_steps: int
    log_steps: int
    open_loggers: Callable[[int], list[Logger]]
    telemetry: Recorder
    console: Console
    origin: Origin | None = None

    def __post_init__(self) -> None:
        self.saver = Saver(
            self.fabric, self.step, self.folder.checkpoints, fingerprint(self.loader.source), self.origin
        )
        self.logbook = Logbook(self.folder, self._say)
        self.collapse = CollapseWatch(self._say)
        self.diverging = DivergenceWatch(self.max_nonfinite_steps, self._say)

    def run(self) -> None:
        """Trains to the end, or until a signal asks to stop.

        Raises:
            RunError: the loss stays non-finite, memory ran out, too much of the data is unreadable, or the trained
                weights could not be saved.
            StoppedError: a signal stopped the run; its progress is saved.
        """
        steps_per_epoch = self.loader.steps_per_epoch
        steps, first = self.epochs * steps_per_epoch, self._restore()
        if self.fabric.is_global_zero:  # only now, since they write: the run may continue
            self.logbook.config()
            self.logbook.loggers = self.open_loggers(first)
        with (
            ProgressReport(self.console, steps, steps_per_epoch, first, self.fabric.is_global_zero) as progress,
            StopRequest() as stop,
        ):
            if first:
                finished = (
                    f"the run is finished: nothing to train; --extend {self.folder.path} in another --out continues it"
                )
                self._say(f"resuming at step {first} of {steps}" if first < steps else finished)
            # Includes measurements that an interrupted run did not reach.
            self._measure_if_due(first, stop)
            while True:
                try:
                    self._train(first, steps, progress, stop)
                    break
                except DivergedError as diverged:
                    first = self._go_back(diverged)
        self.collapse.judge()
        if self.diverging.skipped >= steps_per_epoch:
            raise RunError(f"every step of the last epoch was skipped; {self.saver.last_good()}; a lower --lr may help")
        if self.saver.failure:
            raise RunError(
                f"trained, but not saved: {self.saver.failure}; {self.saver.last_good()}; the same command resumes"
            )

    def _say(self, line: str) -> None:
        if self.fabric.is_global_zero:
            printer(self.console)(line)

    def _train(self, first: int, steps: int, progress: ProgressReport, stop: StopRequest) -> None:
        batches = moved(self.loader.batches(first), self.fabric.device)
        try:
            self._take_steps(batches, first, steps, progress, stop)
        finally:
            batches.close()  # or the interpreter's exit would have to end its workers

    def _take_steps(
        self, batches: Iterator[ImageBatch], first: int, steps: int, progress: ProgressReport, stop: StopRequest
    ) -> None:
        steps_per_epoch = self.loader.steps_per_epoch
        pending: list[tuple[int, StepReport]] = []
        mark = time.perf_counter()
        for step in range(first, steps):
            if self.step.resolution.grows_at(step):
                self._say(f"step {step}: views have their full size from here on")
            self.step.watch.start()
            with self._clear_errors(step):
                # At the start, a stream reads its epoch again up to this step.
                with Meeting(self.fabric).slow_work(REREADING) if step == first else contextlib.nullcontext():
                    images = next(batches)
                self.step.watch.lap("data")
                pending.append((step, self.step(images, step)))
            done = step + 1
            progress.move(done)
            ends_epoch = done % steps_per_epoch == 0
            saves = ends_epoch or bool(self.checkpoint_steps and done % self.checkpoint_steps == 0)
            # Several processes agree when they fetch figures.
            stops = (stop.signal or 0) if self.fabric.world_size == 1 else 0
            if saves or stops or len(pending) == self.log_steps:
                now = time.perf_counter()
                # Before any save, so that only finite weights are saved.
                stops = self._write(pending, now - mark, progress, stop.signal or 0)
                self.telemetry.fetch()
                if saves or stops:
                    # Before the processes meet, so that once a checkpoint exists, all of them have written.
                    self.telemetry.write(ended=ends_epoch)
                    self._save(done, ends_epoch)
                pending, mark = [], now
                if stops:
                    raise self._stopped(done, stops, stop)
            self._show_gallery_if_due(done)
            if self._measure_if_due(done, stop):
                mark = time.perf_counter()

    def _restore(self) -> int:
        """Restores the newest intact checkpoint, if there is one; returns the step to continue with."""
        step, damaged = self.saver.restore()
        self.telemetry.resume(step)
        for line in damaged:
            self._say(f"{line}; using the checkpoint before it")
        before, now = self.saver.processes or self.fabric.world_size, self.fabric.world_size
        if before != now and step % self.loader.steps_per_epoch and isinstance(self.loader.source, Stream):
            self._say(
                f"this run had {several(before, 'process', 'processes')} and now has {now}, which changes a "
                "stream's order: in the rest of the epoch some images come again and others do not come"
            )
        if self.fabric.is_global_zero:
            self.logbook.drop_after(step)
        return step

    def _go_back(self, diverged: DivergedError) -> int:
        """Goes back to the last good checkpoint at a lower rate, once; returns the step to continue with."""
        if self.saver.factor < 1 or not self.folder.checkpoints.last.exists():
            tried = ", also at a lower rate" if self.saver.factor < 1 else ""
            raise RunError(f"{diverged}{tried}; {self.saver.last_good()}; a lower --lr may help") from diverged
        step = self._restore()
        self.saver.lower(LOWER)
        self._say(f"{diverged}: going back to step {step}, at {LOWER:g} of the learning rate")
        return step

    def _save(self, done: int, ends_epoch: bool) -> None:
        epoch = done // self.loader.steps_per_epoch
        kept = ends_epoch and self.keep_epochs and epoch % self.keep_epochs == 0
        self.saver.save(done, epoch if kept else None)
        if self.saver.failure:
            # A later save may find space again; this failure must not end days of training.
            after = f"after {several(done, 'step')}"
            self._say(f"{after}: no checkpoint could be saved ({self.saver.failure}); training continues")

    def _stopped(self, done: int, number: int, stop: StopRequest) -> StoppedError:
        if self.fabric.world_size > 1:
            stop.ignore_sigterm()
        name = signal.Signals(number).name
        saved = f", saved after {several(done, 'step')}" if done else " before the first step"
        if self.saver.failure:
            saved = f", could not save ({self.saver.failure})"
        return StoppedError(f"stopped by {name}{saved}; the same command with --out {self.folder.path} resumes", number)

    def _write(self, pending: list[tuple[int, StepReport]], spent: float, progress: ProgressReport, asked: int) -> int:
        """Fetches the figures of the pending steps together and writes them to every log.

        Args:
            pending: steps and their reports.
            spent: seconds spent on them.
            progress: to update.
            asked: number of the signal that asked this process to stop, or 0.

        Returns:
            The number of a signal that asked any process to stop, or 0; the same in all processes.

        Raises:
            DivergedError: as in ``DivergenceWatch``.
        """
        names = sorted({name for _, report in pending for name in report.values})
        none = torch.full((), math.nan, device=self.fabric.device)  # steps without selection have no costs
        figures = torch.stack(
            [torch.stack([report.loss, *(report.values.get(n, none) for n in names)]).float() for _, report in pending]
        )
        figures = self.fabric.all_reduce(figures, reduce_op="mean")  # type: ignore[assignment]
        speed = len(pending) * self.loader.batch_size * self.fabric.world_size / spent
        memory = held(self.fabric.device) / 2**30
        rows: list[dict[str, float]] = []
        for (step, report), (loss, *values) in zip(pending, figures.tolist(), strict=True):
            seconds = {f"seconds_{part}": value for part, value in Stopwatch.seconds(report.marks).items()}
            rates = {"lr": self.step.rates.at(step), "lr_constant": self.step.rates.at(step, constant=True)}
            epoch = step // self.loader.steps_per_epoch
            row = {"step": step, "epoch": epoch, "loss": loss, "images_per_second": speed, "memory": memory}
            row |= {**rates, **seconds}
            rows.append(row | {n: value for n, value in zip(names, values, strict=True) if n in report.values})
        self.logbook.images(self.loader.unreadable, self.loader.cut_short, self.fabric.global_rank)
        if self.fabric.is_global_zero:
            # The newest row with the most figures, since not every step selects.
            shown = max(rows, key=lambda row: (len(row), row["step"]))
            self.logbook.metrics(rows, shown)
            progress.update(pending[-1][0] + 1, shown)
            if self.loader.batch_size * self.fabric.world_size > 1:  # a single image always looks collapsed
                self.collapse.note(rows)
        self.diverging.note(rows)
        return self._agreed(asked)

    def _agreed(self, asked: int) -> int:
        """The number of the signal that asked any process to stop, or 0."""
        signals = self.fabric.all_reduce(torch.tensor(float(asked), device=self.fabric.device), reduce_op="max")
        return int(signals)  # type: ignore[arg-type]

    def _measure_if_due(self, done: int, stop: StopRequest) -> bool:
        """Returns whether time was spent on measuring; raises StoppedError if a process was asked to stop meanwhile."""
        if not self.monitor.due(done):
            return False
        values = self.monitor.measure(done, lambda: bool(stop.signal))
        if values:
            self.logbook.measured(done, done // self.loader.steps_per_epoch, values, self.monitor.describe(values))
            self.collapse.measured([rank for _, rank in self.folder.evaluations().get("embedding_rank", [])])
        stops = self._agreed(stop.signal or 0)
        if stops:
            raise self._stopped(done, stops, stop)
        return True

    def _show_gallery_if_due(self, done: int) -> None:
        picture = self.telemetry.sheet() if self.logbook.loggers and self.monitor.due(done) else None
        if picture is not None:
            self.logbook.to_loggers(lambda logger: logger.show("views/gallery", picture, done))

    @contextlib.contextmanager
    def _clear_errors(self, step: int) -> Iterator[None]:
        """Turns an error that ends a run into one line: the step, what to reduce, what is saved."""
        try:
            yield
        except RunError as error:
            self.logbook.images(self.loader.unreadable, self.loader.cut_short, self.fabric.global_rank)
            raise RunError(f"step {step}: {error}; {self.saver.last_good()}") from error
        except (RuntimeError, MemoryError) as error:
            if "deterministic implementation" in str(error):
                raise RunError(
                    f"step {step}: deterministic: torch has no deterministic {str(error).split()[0]} for this device; "
                    f"leave the option out; {self.saver.last_good()}"
                ) from error
            if not is_out_of_memory(error):
                raise
            scoring = self.step.scorer.scoring
            raise RunError(
                f"step {step}: out of memory on {self.fabric.device}: give a smaller --batch-size, a larger "
                f"--grad-accumulation (now {self.step.parts}), a smaller --score-resolution (now "
                f"{scoring.resolution:g}) or --score-chunk (now {scoring.chunk or 'off'}); {self.saver.last_good()}"
            ) from error
