"""What the kept views are like beside a random choice: IoU, crops, colours, by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardviews.analysis.curves import label, said
from hardviews.analysis.drawing import bars, histogram, lines
from hardviews.analysis.figure import Bars, Figure, Line, number, signed
from hardviews.analysis.run import Run
from hardviews.analysis.statistics import by_epoch, of_pairs, of_views, quantities
from hardviews.telemetry.reading import Array, Telemetry
from hardviews.views.plan import ViewPlan

MOST_EPOCHS = 24  # of a long run, so many are looked at: the first, the last, and others evenly between
MOST_ROWS = 8192  # looked at for what is of all epochs together
BINS = 20
FEW = 30  # rows below which nothing is said of chance
SURE = 3  # standard errors from 0 from which on a preference is named: of 14, one by chance in 25 runs


@dataclass(frozen=True)
class Described:
    """A quantity in words: a title, the axis' unit, what it is, and whether it is a part of something."""

    title: str
    unit: str
    meaning: str
    percent: bool = False


GEOMETRY = {
    "overlap": Described(
        "Overlap", "of the smaller crop", "how much of the smaller crop lies within the other", percent=True
    ),
    "distance": Described(
        "Distance of centres", "in crop sides", "how far the crops' centres lie apart, in units of their sides"
    ),
    "area": Described("Crop size", "of the picture", "how much of the picture a view shows", percent=True),
    "area_difference": Described(
        "Difference in size", "logarithm of areas", "how different in size two crops are (0: equal, 0.7: one twice)"
    ),
}
COLOURS = {
    "brightness_difference": Described("Brightness", "difference of factors", "how differently bright two views are"),
    "contrast_difference": Described("Contrast", "difference of factors", "how different in contrast two views are"),
    "saturation_difference": Described(
        "Saturation", "difference of factors", "how differently saturated two views are"
    ),
    "hue_difference": Described("Hue", "difference, in turns", "how far apart the colours of two views are turned"),
    "grey_difference": Described(
        "Grey beside colour", "of pairs", "how often one of two views is grey and the other is not", percent=True
    ),
    "grey": Described("Grey", "of views", "how often a view is grey", percent=True),
    "blur_difference": Described("Blur", "difference, in pixels", "how differently blurred two views are"),
    "solarize_difference": Described(
        "Solarized beside not", "of pairs", "how often bright parts of one of two views are inverted", percent=True
    ),
    "flip_difference": Described(
        "Mirrored beside not", "of pairs", "how often one of two views is mirrored and the other is not", percent=True
    ),
}
SHORT = {
    "iou": "shared part (IoU)", "overlap": "overlap", "distance": "distance", "area": "crop size",
    "area_difference": "size difference", "brightness_difference": "brightness diff.",
    "contrast_difference": "contrast diff.", "saturation_difference": "saturation diff.",
    "hue_difference": "hue diff.", "grey": "grey", "grey_difference": "grey beside colour",
    "blur_difference": "blur diff.", "solarize_difference": "solarized beside not",
    "flip_difference": "mirrored beside not",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Chosen:
    """A run that chose among views and has telemetry.

    Args:
        place: its number among the runs of the report.
        run: the run.
        table: ``statistics.by_epoch``, of at most ``MOST_EPOCHS`` epochs.
        rows: telemetry of steps that chose, at most ``MOST_ROWS``.
    """

    place: int
    run: Run
    table: dict[str, Array]
    rows: Telemetry

    def mean(self, name: str) -> float:
        """A column's mean over the images of all epochs of ``table``."""
        known = np.isfinite(self.table[name])
        weight = self.table["images"][known]
        return float((self.table[name][known] * weight).sum() / weight.sum()) if weight.sum() else float("nan")


def chosen(runs: Sequence[Run]) -> list[Chosen]:
    """Those of the runs that there is something to tell of."""
    found = []
    for place, run in enumerate(runs):
        if run.telemetry is not None and run.telemetry["chosen"].any():
            epochs = np.unique(run.telemetry["epoch"])
            some = epochs[np.unique(np.linspace(0, len(epochs) - 1, MOST_EPOCHS).round().astype(int))]
            table = by_epoch(run.telemetry.where(np.isin(run.telemetry["epoch"], some)))
            rows = np.flatnonzero(run.telemetry["chosen"])
            if len(rows) > MOST_ROWS:
                rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
            found.append(Chosen(place, run, table, run.telemetry.where(rows)))
    return found


def overlaps(runs: Sequence[Run], of: Sequence[Chosen]) -> list[Figure]:
    """IoU by epoch, its histogram, and how often the kept combination is that of lowest IoU."""
    some = [run for run in runs if np.isfinite(run.mean("iou_kept"))]
    found = [_iou(some, runs)] if some else []
    return found + ([_histogram(of, runs), _lowest(of, runs)] if of else [])


def _iou(some: Sequence[Run], runs: Sequence[Run]) -> Figure:
    drawn = []
    for place, run in enumerate(runs):
        if run in some:
            drawn.append(Line(label(runs, run, "kept"), *run.by_epoch("iou_kept"), place))
            drawn.append(Line(label(runs, run, "random"), *run.by_epoch("iou_random"), place, True, len(runs) == 1))
    phrase = said(runs, some, lambda run: f"{number(run.mean('iou_kept'))} against {number(run.mean('iou_random'))}")
    caption = (
        "IoU, intersection over union: the part of the area covered by two crops that both of them cover; 1 is the "
        f"same crop twice, 0 none shared. Kept views against a random choice, over all steps: {phrase}"
    )
    return lines("iou", "How much the views share", caption, drawn, unit="IoU")


def chances(plan: ViewPlan) -> Tensor:
    """How likely a random choice keeps candidates t and v both, ``[T, V]``; 0 where they are the same."""
    slot = plan.slot_of()
    both = torch.zeros(plan.targets, plan.draw, dtype=torch.float64)
    for t in range(plan.targets):
        for v in range(plan.draw):
            a, b = plan.slots[slot[t]], plan.slots[slot[v]]
            other = (b.keep - 1) / max(b.draw - 1, 1) if slot[t] == slot[v] else b.keep / b.draw
            both[t, v] = 0 if t == v else a.keep / a.draw * other
    return both


def iou_parts(rows: Telemetry, edges: Array) -> tuple[Array, Array]:
    """Histograms of the IoU of every kept target with every other kept view, and of a random choice, exactly.

    Args:
        rows: of steps that chose.
        edges: ``[bins + 1]``.

    Returns:
        Parts of all ``[bins]``, of the kept and of a random choice.
    """
    iou = of_pairs(rows.views())["iou"][: rows.plan.targets]  # [T, V, N]
    kept = torch.zeros(rows.plan.draw, len(rows), dtype=torch.bool).scatter_(0, rows.kept(), True)
    both = kept[: rows.plan.targets, None] & kept[None]
    chance = chances(rows.plan)[..., None].expand_as(iou)
    both = both & (chance > 0)
    found = []
    for weight in (both.double(), chance):
        counts, _ = np.histogram(iou.clamp(0, 1).flatten().numpy(), edges, weights=weight.flatten().numpy())
        found.append(counts / max(counts.sum(), 1e-12))
    return found[0], found[1]


def _histogram(of: Sequence[Chosen], runs: Sequence[Run]) -> Figure:
    edges = np.linspace(0, 1, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    drawn, low = [], {}
    for one in of:
        kept, random = iou_parts(one.rows, edges)
        low[one.run.name] = kept[: BINS // 4].sum(), random[: BINS // 4].sum()
        drawn.append(Line(label(runs, one.run, "kept"), middles, kept, one.place))
        drawn.append(Line(label(runs, one.run, "random"), middles, random, one.place, True, len(runs) == 1))
    phrase = said(
        runs,
        [one.run for one in of],
        lambda run: " against ".join(number(float(part), True) for part in low[run.name]),
    )
    caption = (
        "How the IoU of pairs is spread, over all epochs; a random choice's is exact, from all candidates. Pairs that "
        f"share less than a quarter, kept against random: {phrase}"
    )
    return histogram("iou-histogram", "Spread of the IoU", caption, drawn, edges, unit="of all pairs", x_label="IoU")


def _lowest(of: Sequence[Chosen], runs: Sequence[Run]) -> Figure:
    drawn = []
    for one in of:
        x = one.table["epoch"] + 1.0
        drawn.append(Line(label(runs, one.run, "kept"), x, one.table["lowest_iou_kept"], one.place))
        chance = one.table["lowest_iou_random"]
        drawn.append(Line(label(runs, one.run, "chance"), x, chance, one.place, True, len(runs) == 1))

    def phrase(run: Run) -> str:
        one = next(one for one in of if one.run is run)
        chance = one.mean("lowest_iou_random")
        beside = f", by chance {number(chance, True)}" if np.isfinite(chance) else ""
        return f"{number(one.mean('lowest_iou_kept'), True)} of pictures{beside}"

    caption = (
        "How often no other combination of a picture's candidates shares less than the kept one. Were hard views only "
        f"those that overlap least, this would be 100%. {said(runs, [one.run for one in of], phrase)}"
    )
    title = "Kept views of lowest IoU"
    return lines("lowest-iou", title, caption, drawn, unit="of pictures", percent=True, zero=True)


def crops(runs: Sequence[Run], of: Sequence[Chosen]) -> list[Figure]:
    """Overlap, distance and sizes of crops by epoch."""
    return _quantities(GEOMETRY, runs, of)


def colours(runs: Sequence[Run], of: Sequence[Chosen]) -> list[Figure]:
    """The same of every parameter of colour, blur and flip that any run draws."""
    return _quantities(COLOURS, runs, of)


def _quantities(every: Mapping[str, Described], runs: Sequence[Run], of: Sequence[Chosen]) -> list[Figure]:
    """Of those that any run draws."""
    some = {name: described for name, described in every.items() if any(one.mean(f"{name}_random") for one in of)}
    return [_quantity(name, described, runs, of) for name, described in some.items()]


def _quantity(name: str, described: Described, runs: Sequence[Run], of: Sequence[Chosen]) -> Figure:
    of = [one for one in of if one.mean(f"{name}_random")]  # the others' plans do not draw it
    drawn = []
    for one in of:
        x = one.table["epoch"] + 1.0
        drawn.append(Line(label(runs, one.run, "kept"), x, one.table[f"{name}_kept"], one.place))
        random = one.table[f"{name}_random"]
        drawn.append(Line(label(runs, one.run, "random"), x, random, one.place, True, len(runs) == 1))

    def phrase(run: Run) -> str:
        one = next(one for one in of if one.run is run)
        kept, random = one.mean(f"{name}_kept"), one.mean(f"{name}_random")
        return f"{number(kept, described.percent)} for kept views, {number(random, described.percent)} for random ones"

    caption = f"{described.meaning[:1].upper()}{described.meaning[1:]}: {said(runs, [one.run for one in of], phrase)}"
    slug = name.replace("_", "-")
    return lines(slug, described.title, caption, drawn, unit=described.unit, percent=described.percent)


def preferences(runs: Sequence[Run], of: Sequence[Chosen]) -> list[Figure]:
    """What selection prefers, all quantities on one scale."""
    if not of:
        return []
    effects = {one.run.name: _effects(one) for one in of}
    names = [name for name in SHORT if any(np.isfinite(effect[name][0]) for effect in effects.values())]
    if not names:
        return []
    names.sort(key=lambda name: -max(abs(np.nan_to_num(effect[name][0])) for effect in effects.values()))
    groups = []
    for one in of:
        values, errors = np.array([effects[one.run.name][name] for name in names]).T
        written = [signed(value, 2) for value in values]
        what = label(runs, one.run, "difference" if len(runs) == 1 else "")
        groups.append(Bars(what, values, written, one.place, np.nan_to_num(1.96 * errors)))

    def phrase(run: Run) -> str:
        known = {name: effect for name, (effect, error) in effects[run.name].items() if abs(effect) > SURE * error > 0}
        largest = max(known, key=lambda name: abs(known[name]), default=None)
        return "nothing by more than chance" if largest is None else f"{SHORT[largest]} ({signed(known[largest], 2)})"

    told = said(runs, [one.run for one in of], phrase)
    caption = (
        "How much kept views differ from a random choice, in standard deviations of the candidates: to the right, kept "
        "views have more of it; to the left, less; 0 is no preference. Whiskers are 95 % intervals. What differs most: "
        f"{told}"
    )
    labels = [SHORT[name] for name in names]
    title, axis = "What selection prefers", "standard deviations"
    return [bars("preference", title, caption, labels, groups, x_label=axis, head="quantity")]


def _effects(one: Chosen) -> dict[str, tuple[float, float]]:
    """Means of kept less random and their standard errors, by the standard deviation over candidates; NaN where that
    is 0; errors also of few rows."""
    measured = quantities(one.rows)
    views, plan = one.rows.views(), one.rows.plan
    chance = chances(plan)[..., None]
    found = {}
    pairs = of_pairs(views)
    for name in SHORT:
        if name in pairs:
            values = pairs[name][: plan.targets]
            weight = chance.expand_as(values) / max(float(chance.sum()) * values.shape[-1], 1e-12)
        else:
            values = of_views(views)[name]
            weight = torch.full_like(values, 1 / values.numel())
        centre = (weight * values).sum()
        deviation = float((weight * (values - centre) ** 2).sum().sqrt())
        unit = deviation if deviation > 1e-9 else float("nan")
        difference = measured[name].kept - measured[name].random  # [N]
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) >= FEW else float("nan")
        found[name] = difference.mean() / unit, error / unit
    return found
