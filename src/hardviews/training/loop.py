"""The loop around the step: data, metrics, checkpoints, measurements on the way."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from hardviews.data.loader import Loader, moved
from hardviews.errors import RunError
from hardviews.training import checkpoint
from hardviews.training.loggers import Logger
from hardviews.training.progress import ProgressReport
from hardviews.training.run_folder import RunFolder
from hardviews.training.step import Report, Step
from hardviews.training.stopwatch import Stopwatch
from hardviews.training.telemetry import Telemetry

# A backbone, and whether raw pixels are to be measured too.
Evaluate = Callable[[nn.Module, bool], Mapping[str, float]]


@dataclass
class Loop:
    """Runs the step over the data until the last step, from wherever the run folder's checkpoint left it.

    Args:
        fabric: launched.
        step: what is done with a batch.
        loader: yields this process's images of every step.
        folder: opened; only the first process writes.
        epochs: passes over the data.
        evaluate: measures the backbone, or None; called before the first step, every ``evaluate_epochs`` and at the
            end.
        evaluate_epochs: 0 never, and shows no gallery.
        checkpoint_steps: also save every so many steps; 0 for epochs only.
        log_steps: metrics are fetched from the device and written every so many steps.
        loggers: TensorBoard and the like.
        telemetry: what the step shows it is written at the end of epochs and before checkpoints.
        console: where progress is shown.
    """

    fabric: Fabric
    step: Step
    loader: Loader
    folder: RunFolder
    epochs: int
    evaluate: Evaluate | None
    evaluate_epochs: int
    checkpoint_steps: int
    log_steps: int
    loggers: list[Logger]
    telemetry: Telemetry
    console: Console

    def run(self) -> None:
        """Trains to the end.

        Raises:
            RunError: the loss is not finite, memory ran out, too much of the data is unreadable.
        """
        steps_per_epoch = self.loader.steps_per_epoch
        steps, first = self.epochs * steps_per_epoch, self._restore()
        batches = moved(self.loader.batches(first), self.fabric.device) if first < steps else iter(())
        pending: list[tuple[int, Report]] = []
        with ProgressReport(self.console, steps, steps_per_epoch, first, self.fabric.is_global_zero) as progress:
            if first and self.fabric.is_global_zero:
                rest = (
                    f"going on at step {first} of {steps}" if first < steps else "the run is finished: nothing to train"
                )
                progress.say(rest)
            # Also what an interrupted run did not come to.
            self._measure_if_due(first, progress)
            mark = time.perf_counter()
            for step in range(first, steps):
                self.step.watch.start()
                with self._clear_errors(step):
                    images = next(batches)
                    self.step.watch.lap("data")
                    pending.append((step, self.step(images, step)))
                done = step + 1
                ends_epoch = done % steps_per_epoch == 0
                saves = ends_epoch or (self.checkpoint_steps and done % self.checkpoint_steps == 0)
                if saves or len(pending) == self.log_steps:
                    self.telemetry.fetch()
                    if saves:
                        # Before the processes meet: once there is a checkpoint, all of them have written.
                        self.telemetry.write(ended=ends_epoch)
                    now = time.perf_counter()
                    # Before any save: what is saved is known to be finite.
                    self._write(pending, now - mark, progress)
                    pending, mark = [], now
                if saves:
                    self._save(done)
                self._show_gallery_if_due(done)
                if self._measure_if_due(done, progress):
                    mark = time.perf_counter()

    def _restore(self) -> int:
        """Loads the last checkpoint, if any; returns the step to go on with."""
        state, step = self.folder.checkpoint(), 0
        if state is not None:
            self.step.method.load_state_dict(state["method"])
            self.step.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
            step = int(state["step"])
        self.telemetry.resume(step)
        if self.fabric.is_global_zero:
            self.folder.forget_after(step)
        return step

    def _save(self, done: int) -> None:
        # The losses so far are known to be finite; what the last of them did to the weights is not.
        if not all(bool(parameter.isfinite().all()) for parameter in self.step.method.parameters()):
            raise RunError(f"step {done - 1}: weights are not finite; {self._last_good()}; a lower lr may help")
        if self.fabric.is_global_zero:
            state = {
                "step": done,
                "method": self.step.method.state_dict(),
                "optimizer": self.step.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
            }
            try:
                checkpoint.save(self.folder.checkpoint_file, state)
            except OSError as error:
                raise RunError(f"{self.folder.checkpoint_file}: {error.strerror}; {self._last_good()}") from error
        self.fabric.barrier()

    def _write(self, pending: list[tuple[int, Report]], spent: float, progress: ProgressReport) -> None:
        """Fetches the figures of the pending steps at once, checks the losses, writes them to every log."""
        names = sorted({name for _, report in pending for name in report.values})
        none = torch.full((), math.nan, device=self.fabric.device)  # a step that chose nothing has no costs
        figures = torch.stack(
            [torch.stack([report.loss, *(report.values.get(n, none) for n in names)]).float() for _, report in pending]
        )
        figures = self.fabric.all_reduce(figures, reduce_op="mean")  # type: ignore[assignment]
        speed = len(pending) * self.loader.batch_size * self.fabric.world_size / spent
        rows: list[dict[str, float]] = []
        for (step, report), (loss, *values) in zip(pending, figures.tolist(), strict=True):
            if not math.isfinite(loss):
                raise RunError(f"step {step}: the loss is {loss}; {self._last_good()}; a lower lr may help")
            seconds = {f"seconds_{part}": value for part, value in Stopwatch.seconds(report.marks).items()}
            rates = {"lr": self.step.rates.at(step), "lr_constant": self.step.rates.at(step, constant=True)}
            epoch = step // self.loader.steps_per_epoch
            row = {"step": step, "epoch": epoch, "loss": loss, "images_per_second": speed, **rates, **seconds}
            rows.append(row | {n: value for n, value in zip(names, values, strict=True) if n in report.values})
        self.folder.write_unreadable(self.loader.unreadable, self.fabric.global_rank)
        # The newest that says most: not every step need choose.
        shown = max(rows, key=lambda row: (len(row), row["step"]))
        if self.fabric.is_global_zero:
            self.folder.append_metrics(rows)
            for logger in self.loggers:
                logger.log(shown, shown["step"])
            progress.update(pending[-1][0] + 1, shown)

    def _measure_if_due(self, done: int, progress: ProgressReport) -> bool:
        """Measures after 0 steps, every ``evaluate_epochs`` and at the end, each once; whether it did."""
        if self.evaluate is None or not self.evaluate_epochs or not self._due(done):
            return False
        epochs = done // self.loader.steps_per_epoch
        measured = any(step == done for values in self.folder.evaluations().values() for step, _ in values)
        if self.fabric.is_global_zero and not measured:
            values = self.evaluate(self._evaluated(), done == 0)
            self.folder.append_evaluation(done, epochs, values)
            for logger in self.loggers:
                logger.log(values, done)
            text = ", ".join(
                f"{name} {value:.1%}" if "knn" in name else f"{name} {value:.1f}" for name, value in values.items()
            )
            progress.say(f"after {epochs} epochs: {text}" if done else f"untrained: {text}")
        self.fabric.barrier()
        return True

    def _due(self, done: int) -> bool:
        """Whether the run is to be looked at after so many steps: after none, every ``evaluate_epochs``, at the end."""
        epochs, within = divmod(done, self.loader.steps_per_epoch)
        return not within and (epochs == self.epochs or epochs % self.evaluate_epochs == 0)

    def _show_gallery_if_due(self, done: int) -> None:
        picture = self.telemetry.sheet() if self.loggers and self.evaluate_epochs and self._due(done) else None
        if picture is not None:
            for logger in self.loggers:
                logger.show("gallery", picture, done)

    def _evaluated(self) -> nn.Module:
        method = self.step.method
        return method.get_submodule(method.evaluated)

    def _last_good(self) -> str:
        file = self.folder.checkpoint_file
        return f"the last good checkpoint is {file}" if file.exists() else "no checkpoint was written yet"

    @contextlib.contextmanager
    def _clear_errors(self, step: int) -> Iterator[None]:
        """One line for what ends a run: where it was, what can be made smaller, what is saved."""
        try:
            yield
        except RunError as error:
            self.folder.write_unreadable(self.loader.unreadable, self.fabric.global_rank)
            raise RunError(f"step {step}: {error}; {self._last_good()}") from error
        except RuntimeError as error:
            # CPUs have no class of their own for it.
            if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
                raise
            scoring = self.step.scorer.scoring
            raise RunError(
                f"step {step}: out of memory on {self.fabric.device}: give a smaller batch-size, a larger "
                f"accumulate (now {self.step.parts}), a smaller score-resolution (now {scoring.resolution:g}) "
                f"or score-chunk (now {scoring.chunk or 'off'}); {self._last_good()}"
            ) from error
