"""Exact statistics of the kept views and of a random choice, over all combinations.

For a choice, a quantity of two views (IoU, distance of centres, difference of brightness) is averaged over every kept
target with every other kept view; a quantity of one view (size, brightness) over the kept views. For a random choice,
both are averaged over all combinations that the plan allows. So ``iou`` is the IoU of ``metrics.csv``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.selection.search import hardest_ids, mean_total
from hardviews.telemetry.reading import Array, Telemetry
from hardviews.views.boxes import iou, overlap, relative_distance
from hardviews.views.draw import Views

TONES = ("gain", "offset", "gamma", "dropped")  # in the order of ``Views.tone``
NEAR = 1e-6  # IoUs closer than this are equal: boxes are stored in single precision


@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity of every row's kept views, and its expectation for a random choice of the candidates, ``[N]``."""

    kept: Array
    random: Array


def view_quantities(views: Views) -> dict[str, Tensor]:
    """Quantities of single views, ``[V, N]``: area as a fraction of the picture, and width / height relative to the
    picture's. Without jitter, its factors are 1 and the hue shift is 0. Gain, offset, gamma and dropped channels are
    means over channels, and there only if the plan has them."""
    sides = views.box[..., 2:] - views.box[..., :2]
    brightness, contrast, saturation, hue = views.jitter.double().unbind(-1)
    return {
        "area": sides.prod(-1),
        "shape": sides[..., 0] / sides[..., 1],
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue.abs(),
        "grey": views.grey.double(),
        "blur": views.blur.double(),
        "solarize": views.solarize.double(),
        "flip": views.flip.double(),
    } | {name: tone.double().mean(-1) for name, tone in _tones(views).items()}


def _tones(views: Views) -> dict[str, Tensor]:
    """What changes channels one by one, ``[V, N, C]`` each; empty if nothing does."""
    return {} if views.tone is None else dict(zip(TONES, views.tone.unbind(-1), strict=True))


def pair_quantities(views: Views) -> dict[str, Tensor]:
    """Quantities of every two views, ``[V, V, N]``. Differences are absolute; those of area and shape are of
    logarithms, and what changes channels one by one is compared channel by channel."""
    a, b = views.box[:, None], views.box[None]
    singles = view_quantities(views) | {"hue": views.jitter[..., 3].double()}
    singles |= {name: singles[name].log() for name in ("area", "shape")}
    apart = {f"{name}_difference": (x[:, None] - x[None]).abs() for name, x in singles.items()}
    for name, tone in _tones(views).items():  # channel by channel, to save memory
        key, channels = f"{name}_difference", tone.double().unbind(-1)
        apart[key] = (channels[0][:, None] - channels[0][None]).abs()
        for x in channels[1:]:
            apart[key] += (x[:, None] - x[None]).abs()
        apart[key] /= len(channels)
    return {"iou": iou(a, b), "overlap": overlap(a, b), "distance": relative_distance(a, b)} | apart


def quantities(telemetry: Telemetry) -> dict[str, Quantity]:
    """Every quantity, for rows of steps that selected (see the module's docstring); NaN in other rows."""
    plan, kept, views = telemetry.plan, telemetry.kept(), telemetry.views()
    chosen = telemetry["chosen"]

    def quantity(of_kept: Tensor, of_random: Tensor) -> Quantity:
        return Quantity(*(np.where(chosen, x.numpy(), np.nan) for x in (of_kept, of_random)))

    found = {}
    for name, pairs in pair_quantities(views).items():
        costs = Costs(pairs[: plan.targets])
        found[name] = quantity(costs.total(kept), mean_total(costs, plan))
    weight = torch.tensor([plan.slots[slot].keep / plan.slots[slot].draw for slot in plan.slot_of()])
    for name, singles in view_quantities(views).items():
        random = (weight[:, None].double() * singles).sum(0) / plan.keep
        found[name] = quantity(singles.gather(0, kept).mean(0), random)
    found["cost"] = Quantity(telemetry["cost"], telemetry["cost_mean"])
    return found


def is_lowest_iou(telemetry: Telemetry) -> Quantity:
    """Whether no combination overlaps less than the kept one, 1 or 0, and the fraction of all combinations for which
    that holds, if all are recorded. NaN if nothing was selected or the plan allows too many combinations to search."""
    views = telemetry.views()
    costs = Costs(iou(views.box[:, None], views.box[None])[: telemetry.plan.targets])
    try:
        lowest = costs.total(hardest_ids(Costs(-costs.cross), telemetry.plan))
    except InputError:
        unknown = np.full(len(telemetry), np.nan)
        return Quantity(unknown, unknown)
    chosen, kept = telemetry["chosen"], costs.total(telemetry.kept()) <= lowest + NEAR
    chance = torch.full((len(telemetry),), torch.nan, dtype=torch.float64)
    if telemetry.exhaustive:  # one at a time: all at once would take a gigabyte
        every = [
            costs.total(torch.from_numpy(ids)[:, None].expand(-1, len(telemetry))) for ids in telemetry.combinations
        ]
        chance = (torch.stack(every) <= lowest + NEAR).double().mean(0)
    return Quantity(np.where(chosen, kept.numpy(), np.nan), np.where(chosen, chance.numpy(), np.nan))


def by_epoch(telemetry: Telemetry) -> dict[str, Array]:
    """A table of means with a row per epoch: ``epoch``, ``images`` (in steps that selected), ``rank`` (of the kept
    combination among those with known costs), and ``NAME_kept`` and ``NAME_random`` of every quantity. For
    ``lowest_iou``, these are the fraction of images whose kept combination has the lowest IoU, and its expectation by
    chance."""
    table: dict[str, list[float]] = {}
    for epoch, rows in telemetry.epochs():
        ranks = rows["rank"][rows["rank"] >= 0]
        row = {"epoch": epoch, "images": int(rows["chosen"].sum()), "rank": _mean(ranks)}
        for name, quantity in (quantities(rows) | {"lowest_iou": is_lowest_iou(rows)}).items():
            row |= {f"{name}_kept": _mean(quantity.kept), f"{name}_random": _mean(quantity.random)}
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in table.items()}


def by_image(telemetry: Telemetry) -> dict[str, Array]:
    """Followed images with known costs, the hardest first: ``image``, and ``cost``, the mean over its steps of how much
    more its combinations cost than those of other images in the same epoch."""
    known = telemetry.where(np.isfinite(telemetry["cost_mean"]))
    cost = known["cost_mean"].astype(np.float64)
    for epoch in np.unique(known["epoch"]):
        rows = known["epoch"] == epoch
        cost[rows] -= cost[rows].mean()
    images, place = np.unique(known["image"], return_inverse=True)
    mean = np.bincount(place, cost, len(images)) / np.maximum(np.bincount(place, minlength=len(images)), 1)
    order = np.argsort(-mean, kind="stable")
    return {"image": images[order], "cost": mean[order]}


def _mean(values: Array) -> float:
    """The mean of the known values."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
