"""Compares the kept views with a random choice, by epoch: IoU, crops, colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardviews.analysis import arms
from hardviews.analysis.curves import label, per_run, with_colours
from hardviews.analysis.drawing import bars, histogram, lines
from hardviews.analysis.figure import Bars, Figure, Line, averaged_bars, number, signed
from hardviews.analysis.quantity_texts import COLOURS, GEOMETRY, SHORT, QuantityText
from hardviews.analysis.run import Run
from hardviews.analysis.statistics import by_epoch, pair_quantities, quantities, view_quantities
from hardviews.telemetry.reading import Array, Telemetry
from hardviews.views.plan import ViewPlan

MOST_EPOCHS = 24  # maximum epochs read of a long run: the first, the last, and evenly spaced ones between
MOST_ROWS = 8192  # maximum rows used for figures over all epochs
BINS = 20
FEW = 30  # minimum rows for a statement about chance
SURE = 3  # minimum |mean| / standard error for a named preference; among 14, one is chance in 25 runs


@dataclass(frozen=True, eq=False)
class SelectingRun:
    """A run that selected views and has telemetry.

    Args:
        place: its index among the runs of the report.
        run: the run.
        table: ``statistics.by_epoch`` of at most ``MOST_EPOCHS`` epochs.
        rows: telemetry of steps that selected, at most ``MOST_ROWS``.
    """

    place: int
    run: Run
    table: dict[str, Array]
    rows: Telemetry

    def mean(self, name: str) -> float:
        """A column's mean over the images of all epochs in ``table``; 0 of a quantity that the plan does not draw."""
        if name not in self.table:
            return 0.0
        known = np.isfinite(self.table[name])
        weight = self.table["images"][known]
        return float((self.table[name][known] * weight).sum() / weight.sum()) if weight.sum() else float("nan")


def selecting_runs(runs: Sequence[Run]) -> list[SelectingRun]:
    """The runs that selected views and have telemetry."""
    found = []
    for place, run in enumerate(runs):
        if run.telemetry is not None and run.telemetry["chosen"].any():
            epochs = np.unique(run.telemetry["epoch"])
            some = epochs[np.unique(np.linspace(0, len(epochs) - 1, MOST_EPOCHS).round().astype(int))]
            table = by_epoch(run.telemetry.where(np.isin(run.telemetry["epoch"], some)))
            rows = np.flatnonzero(run.telemetry["chosen"])
            if len(rows) > MOST_ROWS:
                rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
            found.append(SelectingRun(place, run, table, run.telemetry.where(rows)))
    return found


def overlaps(runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> list[Figure]:
    """IoU by epoch, its histogram, and how often the kept combination has the lowest IoU."""
    some = [run for run in runs if np.isfinite(run.mean("iou_kept"))]
    found = [_iou(some, runs)] if some else []
    return found + ([_histogram(selecting, runs), _lowest(selecting, runs)] if selecting else [])


def _iou(some: Sequence[Run], runs: Sequence[Run]) -> Figure:
    drawn = []
    for place, run in with_colours(runs, some):
        drawn.append(Line(label(runs, run, "kept"), *run.by_epoch("iou_kept"), place))
        drawn.append(Line(label(runs, run, "random"), *run.by_epoch("iou_random"), place, True, arms.count(runs) == 1))
    phrase = per_run(runs, some, lambda run: f"{number(run.mean('iou_kept'))} against {number(run.mean('iou_random'))}")
    caption = (
        "IoU (intersection over union) is the area that two crops share, divided by the area that they cover together: "
        f"1 for the same crop twice, 0 for no overlap. Kept views against a random choice, over all steps: {phrase}"
    )
    return lines("iou", "How much the views share", caption, drawn, unit="IoU", zero=True)


def pair_probabilities(plan: ViewPlan) -> Tensor:
    """The probability that a random choice keeps both candidates t and v, ``[T, V]``; 0 for t = v."""
    slot = plan.slot_of()
    both = torch.zeros(plan.targets, plan.draw, dtype=torch.float64)
    for t in range(plan.targets):
        for v in range(plan.draw):
            a, b = plan.slots[slot[t]], plan.slots[slot[v]]
            other = (b.keep - 1) / max(b.draw - 1, 1) if slot[t] == slot[v] else b.keep / b.draw
            both[t, v] = 0 if t == v else a.keep / a.draw * other
    return both


def iou_parts(rows: Telemetry, edges: Array) -> tuple[Array, Array]:
    """Exact histograms of the IoU of every kept target with every other kept view, and of a random choice.

    Args:
        rows: of steps that selected.
        edges: ``[bins + 1]``.

    Returns:
        Fractions per bin ``[bins]``, of the kept and of a random choice.
    """
    iou = pair_quantities(rows.views())["iou"][: rows.plan.targets]  # [T, V, N]
    kept = torch.zeros(rows.plan.draw, len(rows), dtype=torch.bool).scatter_(0, rows.kept(), True)
    both = kept[: rows.plan.targets, None] & kept[None]
    chance = pair_probabilities(rows.plan)[..., None].expand_as(iou)
    both = both & (chance > 0)
    found = []
    for weight in (both.double(), chance):
        counts, _ = np.histogram(iou.clamp(0, 1).flatten().numpy(), edges, weights=weight.flatten().numpy())
        found.append(counts / max(counts.sum(), 1e-12))
    return found[0], found[1]


def _histogram(selecting: Sequence[SelectingRun], runs: Sequence[Run]) -> Figure:
    edges = np.linspace(0, 1, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    drawn, low = [], {}
    for one in selecting:
        kept, random = iou_parts(one.rows, edges)
        low[one.run.name] = kept[: BINS // 4].sum(), random[: BINS // 4].sum()
        drawn.append(Line(label(runs, one.run, "kept"), middles, kept, one.run.arm))
        drawn.append(Line(label(runs, one.run, "random"), middles, random, one.run.arm, True, arms.count(runs) == 1))
    phrase = per_run(
        runs,
        [one.run for one in selecting],
        lambda run: " against ".join(number(float(part), True) for part in low[run.name]),
    )
    caption = (
        "Distribution of the IoU of pairs over all epochs; for a random choice, exact, from all candidates. Pairs that "
        f"share less than a quarter, kept against random: {phrase}"
    )
    return histogram("iou-histogram", "Spread of the IoU", caption, drawn, edges, unit="of all pairs", x_label="IoU")


def _lowest(selecting: Sequence[SelectingRun], runs: Sequence[Run]) -> Figure:
    drawn = []
    for one in selecting:
        x = one.table["epoch"] + 1.0
        drawn.append(Line(label(runs, one.run, "kept"), x, one.table["lowest_iou_kept"], one.run.arm))
        chance = one.table["lowest_iou_random"]
        drawn.append(Line(label(runs, one.run, "chance"), x, chance, one.run.arm, True, arms.count(runs) == 1))

    def phrase(run: Run) -> str:
        one = next(one for one in selecting if one.run is run)
        chance = one.mean("lowest_iou_random")
        beside = f", by chance {number(chance, True)}" if np.isfinite(chance) else ""
        return f"{number(one.mean('lowest_iou_kept'), True)} of pictures{beside}"

    caption = (
        "How often no other combination of a picture's candidates overlaps less than the kept one. If hard views were "
        f"only the ones that overlap least, this would be 100%. {per_run(runs, [one.run for one in selecting], phrase)}"
    )
    title = "Kept views with the lowest IoU"
    return lines("lowest-iou", title, caption, drawn, unit="of pictures", percent=True, zero=True)


def crops(runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> list[Figure]:
    """Overlap, distance and size of crops by epoch."""
    return _quantities(GEOMETRY, runs, selecting)


def colours(runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> list[Figure]:
    """Every parameter of colour, blur and flip by epoch."""
    return _quantities(COLOURS, runs, selecting)


def _quantities(
    every: Mapping[str, QuantityText], runs: Sequence[Run], selecting: Sequence[SelectingRun]
) -> list[Figure]:
    """Figures of the quantities that any run draws."""
    drawn = {name: text for name, text in every.items() if any(one.mean(f"{name}_random") for one in selecting)}
    return [_quantity(name, text, runs, selecting) for name, text in drawn.items()]


def _quantity(name: str, described: QuantityText, runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> Figure:
    selecting = [one for one in selecting if one.mean(f"{name}_random")]  # leaves out runs whose plans do not draw it
    drawn = []
    for one in selecting:
        x = one.table["epoch"] + 1.0
        drawn.append(Line(label(runs, one.run, "kept"), x, one.table[f"{name}_kept"], one.run.arm))
        random = one.table[f"{name}_random"]
        drawn.append(Line(label(runs, one.run, "random"), x, random, one.run.arm, True, arms.count(runs) == 1))

    def phrase(run: Run) -> str:
        one = next(one for one in selecting if one.run is run)
        kept, random = one.mean(f"{name}_kept"), one.mean(f"{name}_random")
        return f"{number(kept, described.percent)} for kept views, {number(random, described.percent)} for random ones"

    phrases = per_run(runs, [one.run for one in selecting], phrase)
    caption = f"{described.meaning[:1].upper()}{described.meaning[1:]}: {phrases}"
    slug = name.replace("_", "-")
    return lines(slug, described.title, caption, drawn, unit=described.unit, percent=described.percent, zero=True)


def preferences(runs: Sequence[Run], selecting: Sequence[SelectingRun]) -> list[Figure]:
    """What selection prefers, with all quantities on one scale."""
    if not selecting:
        return []
    effects = {one.run.name: _effects(one) for one in selecting}
    names = [name for name in SHORT if any(np.isfinite(effect[name][0]) for effect in effects.values())]
    if not names:
        return []
    names.sort(key=lambda name: -max(abs(np.nan_to_num(effect[name][0])) for effect in effects.values()))
    groups = []
    for one in selecting:
        values, errors = np.array([effects[one.run.name][name] for name in names]).T
        written = [signed(value, 2) for value in values]
        what = label(runs, one.run, "difference" if arms.count(runs) == 1 else "")
        groups.append(Bars(what, values, written, one.run.arm, np.nan_to_num(1.96 * errors)))

    groups = averaged_bars(groups, lambda value: signed(value, 2))

    def phrase(run: Run) -> str:
        known = {name: effect for name, (effect, error) in effects[run.name].items() if abs(effect) > SURE * error > 0}
        largest = max(known, key=lambda name: abs(known[name]), default=None)
        return "nothing beyond chance" if largest is None else f"{SHORT[largest]} ({signed(known[largest], 2)})"

    phrases = per_run(runs, [one.run for one in selecting], phrase)
    caption = (
        "How much kept views differ from a random choice, in standard deviations of the candidates. To the right, kept "
        "views have more of it; to the left, less; 0 is no preference. Whiskers: 95 % intervals. Largest difference: "
        f"{phrases}"
    )
    labels = [SHORT[name] for name in names]
    title, axis = "Kept views against a random choice", "standard deviations"
    return [bars("preference", title, caption, labels, groups, x_label=axis, head="quantity")]


def _effects(one: SelectingRun) -> dict[str, tuple[float, float]]:
    """Mean differences of kept minus random and their standard errors, divided by the standard deviation over
    candidates. Both are NaN if that is 0; errors also if there are few rows."""
    measured = quantities(one.rows)
    views, plan = one.rows.views(), one.rows.plan
    chance = pair_probabilities(plan)[..., None]
    found = {}
    pairs = pair_quantities(views)
    for name in SHORT:
        if name not in measured:
            found[name] = float("nan"), float("nan")
            continue
        if name in pairs:
            values = pairs[name][: plan.targets]
            weight = chance.expand_as(values) / max(float(chance.sum()) * values.shape[-1], 1e-12)
        else:
            values = view_quantities(views)[name]
            weight = torch.full_like(values, 1 / values.numel())
        centre = (weight * values).sum()
        deviation = float((weight * (values - centre) ** 2).sum().sqrt())
        unit = deviation if deviation > 1e-9 else float("nan")
        difference = measured[name].kept - measured[name].random  # [N]
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) >= FEW else float("nan")
        found[name] = difference.mean() / unit, error / unit
    return found
