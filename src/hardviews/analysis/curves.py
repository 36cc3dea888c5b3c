"""Learning curves and time per step, from ``metrics.csv`` and ``evaluation.csv``."""

from collections.abc import Callable, Sequence

import numpy as np

from hardviews.analysis import arms
from hardviews.analysis.drawing import bars, lines
from hardviews.analysis.figure import Bars, Figure, Line, averaged_bars, number
from hardviews.analysis.run import PARTS, Run, mean, measured_on
from hardviews.telemetry.reading import Array

POINTS = 60  # maximum points of a curve over steps, each the mean of a stretch of steps
MOST_SAID = 6  # with more runs, captions leave the numbers to tables
KNOWN = {
    "step", "epoch", "loss", "lr", "lr_constant", "cost_kept", "cost_mean", "iou_kept", "iou_random",
    "skipped", "memory", "images_per_second", *(f"seconds_{part}" for part in PARTS),
}  # fmt: skip


def per_run(runs: Sequence[Run], some: Sequence[Run], phrase: Callable[[Run], str]) -> str:
    """A sentence with a phrase for each of some runs, with their names if the report has several runs."""
    if len(runs) == 1:
        return phrase(runs[0]) + "."
    if len(some) > MOST_SAID:
        return f"{len(some)} runs: see the table."
    return "; ".join(f"{run.name}: {phrase(run)}" for run in some) + "."


def label(runs: Sequence[Run], run: Run, what: str) -> str:
    """A line's label, with the arm's name if there are several arms."""
    return what if arms.count(runs) == 1 else f"{run.arm_name}, {what}" if what else run.arm_name


def stretches(run: Run, name: str) -> tuple[Array, Array]:
    """A column's means over stretches of steps: the epochs done at their ends, and the means."""
    values = run.column(name)
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(values))) if len(values) else []
    ends = np.array([part[-1] + 1 for part in parts], dtype=float) / run.steps_per_epoch
    return ends, np.array([mean(values[part]) for part in parts])


def learning(runs: Sequence[Run]) -> list[Figure]:
    """kNN accuracy, loss and rank of the embedding."""
    trained = [run for run in runs if np.isfinite(run.mean("loss"))]
    found = []
    if any(run.evaluations.get("knn_top1") for run in runs):
        found.append(_knn(runs))
    if trained:
        found.append(_loss(trained, runs))
    ranked = [run for run in runs if run.evaluations.get("embedding_rank")]
    if ranked:
        found.append(_rank(ranked, runs))
    return found


def extras(runs: Sequence[Run]) -> list[Figure]:
    """The method's own metrics besides its loss, as far as they vary."""
    trained = [run for run in runs if np.isfinite(run.mean("loss"))]
    extras = sorted({name for run in trained for name in run.metrics} - KNOWN)
    logged = {name: [run for run in trained if _varies(run, name)] for name in extras}
    return [_extra(name, some, runs) for name, some in logged.items() if some][:4]


def _varies(run: Run, name: str) -> bool:
    """Whether a curve of it would show anything."""
    values = run.column(name)
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(np.ptp(values) > 1e-9 * np.abs(values).max())


def with_colours(runs: Sequence[Run], some: Sequence[Run]) -> list[tuple[int, Run]]:
    """Some of the runs with their arm's number, which determines colour and marker."""
    return [(run.arm, run) for run in runs if run in some]


def _loss(trained: Sequence[Run], runs: Sequence[Run]) -> Figure:
    def phrase(run: Run) -> str:
        _, y = stretches(run, "loss")
        return f"from {number(y[0])} at the start to {number(y[-1])} at the end"

    drawn = [
        Line(label(runs, run, "loss" if arms.count(runs) == 1 else ""), *stretches(run, "loss"), place)
        for place, run in with_colours(runs, trained)
    ]
    caption = (
        "The loss that training minimises, on its own views, averaged over stretches of steps: "
        f"{per_run(runs, trained, phrase)} Harder views cost more, so a higher loss does not mean a worse model, and "
        "losses of different methods are not comparable."
    )
    return lines("loss", "Training loss", caption, drawn, unit="loss")


def _knn(runs: Sequence[Run]) -> Figure:
    some = [run for run in runs if run.evaluations.get("knn_top1")]

    def phrase(run: Run) -> str:
        first, last = run.first("knn_top1"), run.last("knn_top1")
        parts = [f"{number(first, True)} before training"] if first is not None else []
        parts += [f"{number(last, True)} at the last measurement"] if last is not None else []
        return ", ".join(parts)

    drawn: list[Line] = []
    pixels: dict[float, list[Run]] = {}
    for place, run in with_colours(runs, some):
        epochs, values = np.array(run.evaluations["knn_top1"]).T
        drawn.append(Line(label(runs, run, "trained backbone" if arms.count(runs) == 1 else ""), epochs, values, place))
        if (raw := run.first("knn_top1_pixels")) is not None:
            pixels.setdefault(raw, []).append(run)
    ends = np.array([0, max(line.x.max() for line in drawn)])
    for raw, of in pixels.items():
        whose = "" if len(pixels) == 1 else f" ({', '.join(run.name for run in of)})"
        drawn.append(Line(f"raw pixels{whose}", np.unique(ends), np.full(len(np.unique(ends)), raw), 0, True, True))
    caption = (
        "Labels are used only here, never in training: a picture gets the class of the pictures with the nearest "
        f"features, and this is how often that is right{measured_on(some)}. {per_run(runs, some, phrase)}"
    )
    if len(pixels) == 1:
        caption += f" Comparing raw pixels instead gives {number(next(iter(pixels)), True)}."
    return lines(
        "knn", "Nearest-neighbour accuracy", caption, drawn, unit="pictures classified right", percent=True, zero=True
    )


def costs(runs: Sequence[Run]) -> list[Figure]:
    """How much more the kept views cost than the mean of all combinations."""
    costing = [run for run in runs if np.isfinite(run.mean("cost_mean"))]
    if not costing:
        return []

    def phrase(run: Run) -> str:
        kept, average = run.mean("cost_kept"), run.mean("cost_mean")
        return f"{number(kept)} against {number(average)}"

    drawn, noise = [], 0.0
    for place, run in with_colours(runs, costing):
        ends, kept = stretches(run, "cost_kept")
        drawn.append(Line(label(runs, run, "extra cost"), ends, kept - stretches(run, "cost_mean")[1], place))
        steps = np.diff(run.column("cost_kept") - run.column("cost_mean"))  # without the trend
        noise = max(noise, float(np.sqrt(2) * np.nanstd(steps)) if np.isfinite(steps).any() else 0.0)
    caption = (
        "Cost of the kept combination of views when it is chosen, minus the mean over all combinations. Above 0, "
        "selection makes training harder; below 0, easier. Kept against the mean of all, on average: "
        f"{per_run(runs, costing, phrase)}"
    )
    return [lines("cost", "Extra cost of the kept views", caption, drawn, unit="cost per picture", noise=noise)]


def _rank(ranked: Sequence[Run], runs: Sequence[Run]) -> Figure:
    def phrase(run: Run) -> str:
        values = [value for _, value in run.evaluations["embedding_rank"]]
        return f"from {number(values[0])} to {number(values[-1])}" if len(values) > 1 else number(values[0])

    drawn = []
    for place, run in with_colours(runs, ranked):
        epochs, values = np.array(run.evaluations["embedding_rank"]).T
        drawn.append(Line(label(runs, run, "rank" if arms.count(runs) == 1 else ""), epochs, values, place))
    caption = (
        "How many directions the features of different pictures use; a fall towards 1 means that the model gives all "
        f"pictures the same features (collapse). Over training{measured_on(ranked)}: {per_run(runs, ranked, phrase)}"
    )
    return lines("rank", "Effective rank of the embedding", caption, drawn, unit="directions", zero=True)


def _extra(name: str, some: Sequence[Run], runs: Sequence[Run]) -> Figure:
    words = name.replace("_", " ")

    def phrase(run: Run) -> str:
        _, y = stretches(run, name)
        return f"from {number(y[0])} to {number(y[-1])}"

    drawn = [Line(label(runs, run, words), *stretches(run, name), place) for place, run in with_colours(runs, some)]
    caption = f"A metric of the method besides its loss: {words}, {per_run(runs, some, phrase)}"
    # The method names the column, so it may contain any characters.
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return lines(f"extra-{safe}", words[:1].upper() + words[1:], caption, drawn)


def times(runs: Sequence[Run]) -> list[Figure]:
    """Seconds per step by part, images per second, learning rate and memory."""
    timed = [run for run in runs if run.steps and run.seconds > 0]
    found = [_parts(timed, runs), _throughput(timed, runs)] if timed else []
    rated = [run for run in runs if np.isfinite(run.mean("lr"))]
    remembered = [run for run in runs if np.isfinite(run.mean("memory"))]
    return found + ([_rate(rated, runs)] if rated else []) + ([_memory(remembered, runs)] if remembered else [])


def _rate(rated: Sequence[Run], runs: Sequence[Run]) -> Figure:
    what = "learning rate" if arms.count(runs) == 1 else ""
    drawn = [Line(label(runs, run, what), *stretches(run, "lr"), place) for place, run in with_colours(runs, rated)]
    phrase = per_run(runs, rated, lambda run: f"{number(float(np.nanmax(run.column('lr'))))} at its highest")
    caption = f"The rate of the optimizer, which rises during warm-up and then falls: {phrase}"
    return lines("rate", "Learning rate", caption, drawn, unit="rate", zero=True)


def _memory(remembered: Sequence[Run], runs: Sequence[Run]) -> Figure:
    what = "memory" if arms.count(runs) == 1 else ""
    drawn = [
        Line(label(runs, run, what), *stretches(run, "memory"), place) for place, run in with_colours(runs, remembered)
    ]
    phrase = per_run(runs, remembered, lambda run: f"{number(float(np.nanmax(run.column('memory'))))} GiB at most")
    caption = (
        "Memory of the training process: on a GPU the peak of its tensors so far, else what it holds in main memory. "
        f"It has {phrase}"
    )
    return lines("memory", "Memory", caption, drawn, unit="GiB", zero=True)


def _parts(timed: Sequence[Run], runs: Sequence[Run]) -> Figure:
    names = {
        "data": "waiting for data", "render": "drawing views", "score": "scoring them", "train": "training",
    }  # fmt: skip
    groups = []
    for place, run in with_colours(runs, timed):
        spent = np.array(list(run.spent().values()))
        milliseconds = spent / run.steps * 1000
        written = [
            f"{number(one)} ms · {part:.0%}" for one, part in zip(milliseconds, spent / run.seconds, strict=True)
        ]
        groups.append(Bars(label(runs, run, "time" if arms.count(runs) == 1 else ""), milliseconds, written, place))

    def phrase(run: Run) -> str:
        share = run.spent()["score"] / run.seconds
        return f"{number(run.seconds / run.steps)} s per step, {share:.0%} of it for scoring candidates"

    groups = averaged_bars(groups, lambda value: f"{number(value)} ms")
    caption = (
        "Parts of the mean step: reading pictures, drawing and rendering views, scoring candidates without gradient, "
        f"and training on the kept views. {per_run(runs, timed, phrase)}"
    )
    return bars("time", "Time per step", caption, list(names.values()), groups, x_label="milliseconds", head="part")


def _throughput(timed: Sequence[Run], runs: Sequence[Run]) -> Figure:
    drawn = []
    for place, run in with_colours(runs, timed):
        what = "images per second" if arms.count(runs) == 1 else ""
        drawn.append(Line(label(runs, run, what), *stretches(run, "images_per_second"), place))
    phrase = per_run(runs, timed, lambda run: f"{number(run.mean('images_per_second'))} images per second on average")
    caption = f"Training speed over entire steps. {phrase}"
    return lines("throughput", "Speed", caption, drawn, unit="images per second", zero=True)
