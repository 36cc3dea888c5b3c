"""A run that extends another: where it begins, what its learning rate does, and what may not change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.training.distributed.sharded_state import misfit, shape_of
from hardviews.training.optimizers import Rates, create_rates
from hardviews.training.output.differences import Difference, differences, differences_text, plain, with_defaults
from hardviews.training.output.run_folder import FREE, RunFolder
from hardviews.training.output.saving import Origin

FIXED = ("--backbone", "--method", "--optimizer")  # and all of --backbone.X; --method.X may change what fits
SHAPING = ("--method.", "--plan.", "--image-size")  # what may change the shape of a weight
WARMUP = 0.1  # of the epochs that are added
BARS = " ▁▂▃▄▅▆▇█"
COLUMNS = 60


@dataclass(frozen=True)
class Extension:
    """The run that is extended, as its newest checkpoint has it.

    Args:
        run: its folder.
        config: its settings.
        step: steps that it has taken.
        steps_per_epoch: its own, which other data or another batch size would change.
        factor: factor its learning rate was reduced to after a rollback.
        data: fingerprint of its images; empty where its version did not say.
        shapes: of every tensor of its method.
    """

    run: RunFolder
    config: Mapping[str, Any]
    step: int
    steps_per_epoch: int
    factor: float
    data: str
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def epochs(self) -> float:
        """That it has taken."""
        return self.step / self.steps_per_epoch

    def resolve(self, options: PretrainOptions) -> PretrainOptions:
        """The options with a warm-up, where none is given.

        Raises:
            InputError: there is nothing left to train.
        """
        if options.epochs <= self.epochs:
            raise InputError(
                f"extend: {self.run.path} has {self.epochs:g} epochs already; give --epochs, of both runs together, "
                "above that"
            )
        if options.init != self.config.get("init"):
            raise InputError(f"init: the weights are those of {self.run.path}; leave out --init or --extend")
        if options.warmup_epochs is not None:
            return options
        if options.extend_schedule == "stretch":
            return replace(options, warmup_epochs=self.config["warmup_epochs"])
        return replace(options, warmup_epochs=WARMUP * (options.epochs - self.epochs))

    def changed(self, config: Mapping[str, Any]) -> list[Difference]:
        """Settings that are others than in that run."""
        free = {*FREE, "extend", "extend_schedule", "warmup_epochs"}
        return differences(with_defaults(self.config, config), plain(config), free)

    def check(self, config: Mapping[str, Any], method: nn.Module) -> None:
        """Raises InputError where its weights or what its optimizer remembers can't continue under these settings."""
        changed = self.changed(config)
        fixed = [one for one in changed if one.option in FIXED or one.option.startswith("--backbone.")]
        remedy = f"give what {self.run.path} has, or begin anew with --init {self.run.path}"
        if fixed:
            raise InputError(f"extend: {differences_text(fixed)}; that can't change: {remedy}")
        if wrong := misfit(self.shapes, method):
            shaping = [one for one in changed if one.option.startswith(SHAPING)] or changed
            raise InputError(
                f"extend: {differences_text(shaping) or 'another network or version made it'}; its weights don't fit: "
                f"{wrong}; {remedy}"
            )

    def begin(self, steps_per_epoch: int) -> int:
        """The step that the new run begins with, counted by its own epochs.

        Raises:
            InputError: this run stopped within an epoch that has other steps now.
        """
        if steps_per_epoch == self.steps_per_epoch:
            return self.step
        if self.step % self.steps_per_epoch:
            raise InputError(
                f"extend: {self.run.path} stopped within epoch {int(self.epochs) + 1}, and with another --batch-size "
                "or other data it can continue from the end of an epoch only: let it get there, or give what it has"
            )
        return self.step // self.steps_per_epoch * steps_per_epoch

    def origin(self, steps_per_epoch: int) -> Origin:
        return Origin(self.run.checkpoints, self.step, self.begin(steps_per_epoch))

    def rates(self) -> Rates:
        """Of that run."""
        known = {field.name for field in fields(PretrainOptions)} - {"backbone"}
        settings = {name: value for name, value in self.config.items() if name in known}
        options = PretrainOptions(**settings, backbone=BackboneOptions(**self.config["backbone"]))
        return extended(create_rates(options, self.steps_per_epoch), self.run.extension()).scaled(self.factor)

    def record(self, options: PretrainOptions, config: Mapping[str, Any], steps_per_epoch: int) -> dict[str, Any]:
        """What ``extension.json`` of the new run holds."""
        rates = self.rates()
        kept = options.weight_decay == self.config["weight_decay"]
        return {
            "run": str(self.run.path),
            "run_step": self.step,
            "run_epochs": self.epochs,
            "schedule": options.extend_schedule or "restart",
            "step": self.begin(steps_per_epoch),
            "lr": rates.at(self.step),
            "weight_decay": rates.decay_at(self.step) if kept else options.weight_decay,
            "changed": [str(one) for one in self.changed(config)],
        }

    def describe(self, record: Mapping[str, Any], rates: Rates, steps_per_epoch: int, source: str) -> list[str]:
        """Lines on where the new run begins and what its learning rate does.

        Args:
            record: of ``record``.
            rates: of the new run.
            steps_per_epoch: of the new run.
            source: fingerprint of its images.
        """
        begin, per_epoch = record["step"], steps_per_epoch
        count = f"{self.epochs:g} epoch{'' if self.epochs == 1 else 's'}"
        lines = [f"extends {self.run.path}, {count} (step {self.step}); {schedule(record, rates, per_epoch)}"]
        theirs, last = self.rates(), rates.steps / per_epoch
        first = theirs.begin / self.steps_per_epoch  # what that run extends itself is not shown
        before = [theirs.at(int(e * self.steps_per_epoch)) for e in _columns(first, self.epochs, last - first)]
        after = [rates.at(int(e * per_epoch)) for e in _columns(begin / per_epoch, last, last - first)]
        lines.append(f"learning rate {plot(before, after)} epochs {first:g} to {last:g}")
        if record["changed"]:
            lines.append(f"changed: {', '.join(record['changed'])}")
        if self.data and self.data != source:
            then, now = (int(one.split()[0]) for one in (self.data, source))
            lines.append(f"{self.run.path} was trained on other images: {then:,} there, {now:,} here")
        if self.factor < 1:
            lines.append(
                f"{self.run.path} went on at {self.factor:g} of its learning rate after a rollback; this run takes the "
                "whole rate, and a lower --lr may help"
            )
        return lines


def _columns(first: float, last: float, whole: float) -> list[float]:
    """Epochs of a part of a plot, one a column, where ``whole`` epochs have ``COLUMNS``."""
    count = max(round(COLUMNS * (last - first) / whole), 1)
    return [first + (last - first) * column / count for column in range(count)]


def plot(before: Sequence[float], after: Sequence[float]) -> str:
    """Rates as bars of one line, with a stroke between those of the run before and of the new one."""
    most = max(*before, *after, 1e-30)
    bars = [[BARS[round(rate / most * (len(BARS) - 1))] for rate in rates] for rates in (before, after)]
    return "|".join("".join(part) for part in bars)


def schedule(record: Mapping[str, Any], rates: Rates, steps_per_epoch: int) -> str:
    """What the learning rate does, in words."""
    begin, last = record["step"], f"epoch {rates.steps / steps_per_epoch:g}"
    here = f"learning rate {record['lr']:.3g} there"
    if rates.peak == rates.end == record["lr"]:
        words = f"learning rate {rates.peak:.3g} throughout"
    elif record["schedule"] == "stretch":
        words = f"{here}, from {rates.at(begin):.3g} on as in a run of {rates.steps / steps_per_epoch:g} epochs"
    else:
        up = f", up to {rates.peak:.3g} at epoch {(begin + rates.warmup) / steps_per_epoch:g}"
        words = f"{here}{up}, then by half a cosine to {rates.end:.3g} at {last}"
    if rates.decay_end is not None and rates.decay_at(begin) != rates.decay_end:
        words += f"; weight decay from {rates.decay_at(begin):.3g} to {rates.decay_end:.3g}"
    return words


def extended(rates: Rates, record: Mapping[str, Any] | None) -> Rates:
    """The rates of a run that has this ``extension.json``: a new cycle, unless it stretches the other's schedule."""
    if record is None or record["schedule"] == "stretch":
        return rates
    return replace(rates, begin=record["step"], begin_rate=record["lr"], decay=record["weight_decay"])


def read_extension(options: PretrainOptions, source: ImageSource | Stream) -> Extension | None:
    """The run that ``--extend`` names; None where it names none, or where this run resumes from its own checkpoint.

    Raises:
        InputError: it has no checkpoint.
        RunError: it has some, and none can be read.
    """
    if options.extend is None:
        return None
    if options.out and RunFolder(Path(options.out)).checkpoints.last.exists():
        return None
    run = RunFolder(Path(options.extend))
    config = run.config()
    state, _ = run.checkpoints.newest()
    if state is None:
        raise InputError(f"extend: {run.path} has no checkpoint yet; {run.checkpoints.last} is missing")
    data = state.get("data", "")
    images = int(data.split()[0]) if data else len(source)
    shapes = {name: shape_of(value) for name, value in state["method"].items()}
    per_epoch = images // int(config["batch_size"])
    return Extension(run, config, int(state["step"]), per_epoch, float(state["rate_factor"]), data, shapes)
