"""Permutation importance, on a random forest, of the drawn parameters for the hardness of views.

The forest gets one combination of candidates (for two kept views, a pair) per image and step, whichever was kept. It
predicts how much more the combination cost than that image's mean combination at that step. So neither hard images nor
falling costs during training are mistaken for hard views.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hardviews.analysis.statistics import pair_quantities, view_quantities
from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.telemetry.reading import Array, Telemetry
from hardviews.views.draw import Views

# Quantities that are permuted together, since they come from one drawn parameter: (name, of two views, of single
# views).
PARAMETERS = {
    "crop position": (("iou", "overlap", "distance"), ()),
    "crop size": (("area_difference",), ("area",)),
    "crop shape": (("shape_difference",), ("shape",)),
    **{
        name: ((f"{name}_difference",), (name,))
        for name in ("brightness", "contrast", "saturation", "hue", "grey", "blur", "solarize", "flip")
    },
    "order of colours": (("order_difference",), ("place_0", "place_1", "place_2", "place_3")),
    **{name: ((f"{name}_difference",), (name,)) for name in ("gain", "offset", "gamma")},
    "dropped channels": (("dropped_difference",), ("dropped",)),
    "mask": (("masked_difference",), ("masked",)),
}
NO_JITTER = (1.0, 1.0, 1.0, 0.0)  # telemetry's values for views without jitter
LEAST = 200  # minimum rows for a forest
FEWEST = 8  # minimum images, some of which are held out
HELD_OUT = 4  # one in this many images is held out for testing


@dataclass(frozen=True)
class Importance:
    """How well the drawn parameters explain the cost of a combination.

    Args:
        explained: out-of-bag R², the fraction of variance that the forest explains; negative if worse than the mean.
        held_out: R² on images that no tree was trained on.
        drop: parameter → mean fall in ``held_out`` if its values are shuffled; largest first.
        deviation: the standard deviation over the repeats.
        rows: combinations used for training and testing the forest.
    """

    explained: float
    held_out: float
    drop: dict[str, float]
    deviation: dict[str, float]
    rows: int


def importance(
    telemetry: Telemetry, *, most: int = 20_000, trees: int = 200, repeats: int = 5, seed: int = 0
) -> Importance:
    """The importance of the parameters for the cost of a combination.

    Args:
        telemetry: with costs of all combinations or of a random sample.
        most: maximum rows; more are subsampled.
        trees: of the forest.
        repeats: shuffles of every parameter.
        seed: of subsample, forest and shuffles.

    Raises:
        InputError: scikit-learn is missing, nothing was selected, or costs are known for too few images.
    """
    if find_spec("sklearn") is None:
        raise InputError("importance needs scikit-learn: pip install 'hardviews[analysis]'")
    from sklearn.ensemble import RandomForestRegressor

    if len(telemetry.combinations) < 2:
        raise InputError("importance needs the costs of at least two combinations, and fewer were recorded")
    random = np.random.default_rng(seed)
    known = np.flatnonzero(np.isfinite(telemetry["cost_mean"]))
    if len(known) > most:
        known = np.sort(random.choice(known, most, replace=False))
    if not len(known):
        raise InputError("its candidates were not scored, or not all of them, so the costs of combinations are unknown")
    pictures = len(np.unique(telemetry["image"][known]))
    if len(known) < LEAST or pictures < FEWEST:
        raise InputError(
            f"importance needs at least {LEAST} costs, of {FEWEST} pictures; there are {len(known)}, of {pictures}"
        )
    rows = telemetry.where(known)
    x, y, columns = table(rows, random.integers(len(rows.combinations), size=len(rows)))
    images = np.unique(rows["image"])
    held = np.isin(rows["image"], random.permutation(images)[: max(len(images) // HELD_OUT, 1)])

    forest = RandomForestRegressor(
        trees, min_samples_leaf=5, max_features=1 / 3, oob_score=True, n_jobs=1, random_state=seed
    )
    forest.fit(x[~held], y[~held])
    tested, true = x[held], y[held]
    baseline = _explained(true, forest.predict(tested))
    drops: dict[str, list[float]] = {}
    for name, members in columns.items():
        for _ in range(repeats):
            shuffled = tested.copy()
            shuffled[:, members] = tested[random.permutation(len(tested))][:, members]
            drops.setdefault(name, []).append(baseline - _explained(true, forest.predict(shuffled)))
    drop = {name: float(np.mean(values)) for name, values in drops.items()}
    drop = dict(sorted(drop.items(), key=lambda item: -item[1]))
    deviation = {name: float(np.std(drops[name])) for name in drop}
    return Importance(float(forest.oob_score_), baseline, drop, deviation, len(x))


def table(telemetry: Telemetry, picked: Array) -> tuple[Array, Array, dict[str, list[int]]]:
    """The forest's input and output.

    Args:
        telemetry: N rows.
        picked: index of the combination to use of each row, ``[N]``.

    Returns:
        Values ``[N, columns]``, excess cost ``[N]``, and for every varying parameter its columns.
    """
    views = telemetry.views()
    ids = torch.from_numpy(telemetry.combinations[picked]).T  # [K, N]
    places, masked = _places(views), torch.from_numpy(telemetry["masked"]).double().T
    of_two = pair_quantities(views) | {
        "order_difference": (places[:, None] - places[None]).abs().sum(-1),
        "masked_difference": (masked[:, None] - masked[None]).abs(),
    }
    of_each = view_quantities(views) | {f"place_{step}": places[..., step] for step in range(4)} | {"masked": masked}
    pairs = {name: Costs(x[: telemetry.plan.targets]).total(ids) for name, x in of_two.items()}
    means = {name: x.gather(0, ids).mean(0) for name, x in of_each.items()}
    values: list[Array] = []
    columns: dict[str, list[int]] = {}
    for name, (of_pair, of_one) in PARAMETERS.items():
        known = [of[key] for of, keys in ((pairs, of_pair), (means, of_one)) for key in keys if key in of]
        for column in known:
            if column.max() > column.min():  # a parameter that the plan does not draw has no importance
                columns.setdefault(name, []).append(len(values))
                values.append(column.numpy())
    cost = telemetry["combination_cost"][np.arange(len(picked)), picked].astype(np.float64)
    return np.stack(values, 1), cost - telemetry["cost_mean"], columns


def _places(views: Views) -> Tensor:
    """Position of each of the four jitter steps, 0 to 3, ``[V, N, 4]``; the middle for views without jitter."""
    jittered = (views.jitter != torch.tensor(NO_JITTER)).any(-1, keepdim=True)
    return torch.where(jittered, views.order.argsort(-1).double(), 1.5)


def _explained(true: Array, predicted: Array) -> float:
    """R²."""
    return float(1 - ((true - predicted) ** 2).sum() / max(((true - true.mean()) ** 2).sum(), 1e-30))
