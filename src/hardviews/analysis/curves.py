"""Learning curves, and where time went: what ``metrics.csv`` and ``evaluation.csv`` tell."""

from collections.abc import Callable, Sequence

import numpy as np

from hardviews.analysis.drawing import bars, lines
from hardviews.analysis.figure import Bars, Figure, Line, number
from hardviews.analysis.run import PARTS, Run, mean, measured_on
from hardviews.telemetry.reading import Array

POINTS = 60  # of a curve of steps: means of stretches
MOST_SAID = 6  # of more runs, captions leave the numbers to tables
KNOWN = {
    "step", "epoch", "loss", "lr", "lr_constant", "cost_kept", "cost_mean", "iou_kept", "iou_random",
    "images_per_second", *(f"seconds_{part}" for part in PARTS),
}  # fmt: skip


def said(runs: Sequence[Run], some: Sequence[Run], phrase: Callable[[Run], str]) -> str:
    """What is to be said of some of the runs, by name where there are several runs."""
    if len(runs) == 1:
        return phrase(runs[0]) + "."
    if len(some) > MOST_SAID:
        return f"{len(some)} runs, too many to tell of each here."
    return "; ".join(f"{run.name}: {phrase(run)}" for run in some) + "."


def label(runs: Sequence[Run], run: Run, what: str) -> str:
    """Of a line: the run's name where there are several."""
    return what if len(runs) == 1 else f"{run.name}, {what}" if what else run.name


def stretches(run: Run, name: str) -> tuple[Array, Array]:
    """A column's means over stretches of steps: epochs done at their ends, and the means."""
    values = run.column(name)
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(values))) if len(values) else []
    ends = np.array([part[-1] + 1 for part in parts], dtype=float) / run.steps_per_epoch
    return ends, np.array([mean(values[part]) for part in parts])


def learning(runs: Sequence[Run]) -> list[Figure]:
    """Loss, kNN accuracy, what kept views cost, rank of the embedding, and what a method logs besides."""
    trained = [run for run in runs if np.isfinite(run.mean("loss"))]
    found = []
    if trained:
        found.append(_loss(trained, runs))
    if any(run.evaluations.get("knn_top1") for run in runs):
        found.append(_knn(runs))
    costing = [run for run in trained if np.isfinite(run.mean("cost_mean"))]
    if costing:
        found.append(_costs(costing, runs))
    ranked = [run for run in runs if run.evaluations.get("embedding_rank")]
    if ranked:
        found.append(_rank(ranked, runs))
    extras = sorted({name for run in trained for name in run.metrics} - KNOWN)
    logged = {name: [run for run in trained if np.isfinite(run.mean(name))] for name in extras}
    return found + [_extra(name, some, runs) for name, some in logged.items() if some][:4]


def _numbered(runs: Sequence[Run], some: Sequence[Run]) -> list[tuple[int, Run]]:
    return [(number, run) for number, run in enumerate(runs) if run in some]


def _loss(trained: Sequence[Run], runs: Sequence[Run]) -> Figure:
    def phrase(run: Run) -> str:
        _, y = stretches(run, "loss")
        return f"from {number(y[0])} at the start to {number(y[-1])} at the end"

    drawn = [
        Line(label(runs, run, "loss" if len(runs) == 1 else ""), *stretches(run, "loss"), place)
        for place, run in _numbered(runs, trained)
    ]
    caption = (
        "What training lowers, on the views it trained on, averaged over stretches of steps: "
        f"{said(runs, trained, phrase)} Harder views cost more, so a higher loss is no worse model, and losses of "
        "different methods can't be compared."
    )
    return lines("loss", "Training loss", caption, drawn, unit="loss")


def _knn(runs: Sequence[Run]) -> Figure:
    some = [run for run in runs if run.evaluations.get("knn_top1")]

    def phrase(run: Run) -> str:
        first, last = run.first("knn_top1"), run.last("knn_top1")
        parts = [f"{number(first, True)} before training"] if first is not None else []
        parts += [f"{number(last, True)} as last measured"] if last is not None else []
        return ", ".join(parts)

    drawn: list[Line] = []
    pixels: dict[float, list[Run]] = {}
    for place, run in _numbered(runs, some):
        epochs, values = np.array(run.evaluations["knn_top1"]).T
        drawn.append(Line(label(runs, run, "trained backbone" if len(runs) == 1 else ""), epochs, values, place))
        if (raw := run.first("knn_top1_pixels")) is not None:
            pixels.setdefault(raw, []).append(run)
    ends = np.array([0, max(line.x.max() for line in drawn)])
    for raw, of in pixels.items():
        whose = "" if len(pixels) == 1 else f" ({', '.join(run.name for run in of)})"
        drawn.append(Line(f"raw pixels{whose}", np.unique(ends), np.full(len(np.unique(ends)), raw), 0, True, True))
    caption = (
        "Labels are used here only, never in training: a picture gets the class of those whose features are nearest "
        f"to its own, and this is how often that is right{measured_on(some)}. {said(runs, some, phrase)}"
    )
    if len(pixels) == 1:
        caption += f" Comparing pixels themselves gives {number(next(iter(pixels)), True)}."
    return lines("knn", "Nearest-neighbour accuracy", caption, drawn, unit="pictures classified rightly", percent=True)


def _costs(costing: Sequence[Run], runs: Sequence[Run]) -> Figure:
    def phrase(run: Run) -> str:
        kept, average = run.mean("cost_kept"), run.mean("cost_mean")
        return f"{number(kept)} against {number(average)}"

    drawn = []
    for place, run in _numbered(runs, costing):
        drawn.append(Line(label(runs, run, "kept"), *stretches(run, "cost_kept"), place))
        grey = len(runs) == 1
        drawn.append(Line(label(runs, run, "mean of all"), *stretches(run, "cost_mean"), place, True, grey))
    caption = (
        "What the kept combination of views costs the model when it is chosen, against the mean over all combinations: "
        "as far above it as training was made harder, and below it, easier. On average: "
        f"{said(runs, costing, phrase)}"
    )
    return lines("cost", "Cost of the kept views", caption, drawn, unit="cost per picture")


def _rank(ranked: Sequence[Run], runs: Sequence[Run]) -> Figure:
    def phrase(run: Run) -> str:
        values = [value for _, value in run.evaluations["embedding_rank"]]
        return f"from {number(values[0])} to {number(values[-1])}" if len(values) > 1 else number(values[0])

    drawn = []
    for place, run in _numbered(runs, ranked):
        epochs, values = np.array(run.evaluations["embedding_rank"]).T
        drawn.append(Line(label(runs, run, "rank" if len(runs) == 1 else ""), epochs, values, place))
    caption = (
        "How many directions the features of different pictures really use; a fall towards 1 means that the model "
        f"says the same of all pictures (collapse). Over training{measured_on(ranked)}: {said(runs, ranked, phrase)}"
    )
    return lines("rank", "Effective rank of the embedding", caption, drawn, unit="directions", zero=True)


def _extra(name: str, some: Sequence[Run], runs: Sequence[Run]) -> Figure:
    words = name.replace("_", " ")

    def phrase(run: Run) -> str:
        _, y = stretches(run, name)
        return f"from {number(y[0])} to {number(y[-1])}"

    drawn = [Line(label(runs, run, words), *stretches(run, name), place) for place, run in _numbered(runs, some)]
    caption = f"What the method logs of itself besides its loss: {words}, {said(runs, some, phrase)}"
    # A column's name is the method's own, and may hold anything.
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return lines(f"extra-{safe}", words[:1].upper() + words[1:], caption, drawn)


def times(runs: Sequence[Run]) -> list[Figure]:
    """Seconds of a step by part, and images a second."""
    timed = [run for run in runs if run.steps and run.seconds > 0]
    return [_parts(timed, runs), _throughput(timed, runs)] if timed else []


def _parts(timed: Sequence[Run], runs: Sequence[Run]) -> Figure:
    names = {
        "data": "waiting for data", "render": "drawing views", "score": "scoring them", "train": "training",
    }  # fmt: skip
    groups = []
    for place, run in _numbered(runs, timed):
        spent = np.array(list(run.spent().values()))
        milliseconds = spent / run.steps * 1000
        written = [
            f"{number(one)} ms · {part:.0%}" for one, part in zip(milliseconds, spent / run.seconds, strict=True)
        ]
        groups.append(Bars(label(runs, run, "time" if len(runs) == 1 else ""), milliseconds, written, place))

    def phrase(run: Run) -> str:
        share = run.spent()["score"] / run.seconds
        return f"{number(run.seconds / run.steps)} s a step, {share:.0%} of it to score candidates"

    caption = (
        "The mean step: reading pictures, drawing and rendering views, scoring the candidates without gradient to "
        f"choose among them, and training on those kept. {said(runs, timed, phrase)}"
    )
    return bars(
        "time", "Where a step's time went", caption, list(names.values()), groups, x_label="milliseconds", head="part"
    )


def _throughput(timed: Sequence[Run], runs: Sequence[Run]) -> Figure:
    drawn = []
    for place, run in _numbered(runs, timed):
        what = "images per second" if len(runs) == 1 else ""
        drawn.append(Line(label(runs, run, what), *stretches(run, "images_per_second"), place))
    phrase = said(runs, timed, lambda run: f"{number(run.mean('images_per_second'))} images a second on average")
    caption = f"How fast training went, all parts of a step together. {phrase}"
    return lines("throughput", "Speed", caption, drawn, unit="images per second", zero=True)
