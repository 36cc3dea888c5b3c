"""The forest finds what a cost was made of, and nothing where it was made of nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hardviews.analysis.importance import importance, table
from hardviews.analysis.statistics import pair_quantities
from hardviews.errors import InputError
from hardviews.telemetry.reading import Telemetry
from hardviews.views.plan import ViewPlan
from tests.analysis.test_statistics import synthetic
from tests.selection.brute_force import plan_of

PLAN = plan_of((4, 2, True))


def with_costs(name: str | None, n: int = 900, plan: ViewPlan = PLAN) -> Telemetry:
    """A cost of every combination that is its IoU or a difference, and some noise; and an image's own, much larger."""
    random = np.random.default_rng(1)
    order = random.permuted(np.tile(np.arange(4, dtype=np.uint8), (n, plan.draw, 1)), axis=2)
    tone = random.random((n, plan.draw, 2, 4), np.float32) if name == "dropped_difference" else None
    given: dict[str, Any] = {} if tone is None else {"tone": tone}
    telemetry = synthetic(plan, n, solarize=np.zeros((n, plan.draw), bool), order=order, **given)
    cost = 0.1 * random.normal(size=(n, len(telemetry.combinations))) + 5 * random.normal(size=(n, 1))
    if name:
        place = torch.from_numpy(order.argsort(-1)[..., 3]).double().T  # of the shift of hue
        pairs = (pair_quantities(telemetry.views()) | {"place_3": place[:, None] + place[None]})[name]

        def of(ids: list[int]) -> torch.Tensor:
            return torch.stack([pairs[t, v] for t in ids if t < plan.targets for v in ids if v != t]).mean(0)

        quantity = torch.stack([of(ids) for ids in telemetry.combinations.tolist()], 1).numpy()
        cost -= quantity / quantity.std()
    telemetry.rows.update(combination_cost=cost.astype(np.float32), cost_mean=cost.mean(1))
    return telemetry


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("iou", "crop position"),
        ("brightness_difference", "brightness"),
        ("blur_difference", "blur"),
        ("shape_difference", "crop shape"),
        ("place_3", "order of colours"),
        ("dropped_difference", "dropped channels"),
    ],
)
def test_what_costs_are_made_of_comes_first(name: str, parameter: str) -> None:
    found = importance(with_costs(name), trees=40, repeats=2)
    assert next(iter(found.drop)) == parameter
    others = [drop for key, drop in found.drop.items() if key != parameter]
    assert found.drop[parameter] > 5 * max(others)
    assert 0.4 < found.explained <= 1
    assert found.held_out == pytest.approx(found.explained, abs=0.15)
    assert found.drop.keys().isdisjoint({"solarize", "mask"})  # they were not drawn
    assert importance(with_costs(name), trees=40, repeats=2) == found  # by the seed


def test_several_kinds_of_views_are_told_of_too() -> None:
    found = importance(with_costs("iou", plan=plan_of((2, 1, True), (2, 1, True), (4, 2, False))), trees=40, repeats=2)
    assert next(iter(found.drop)) == "crop position"
    first, second, *_ = found.drop.values()
    assert first > 5 * second
    assert found.held_out > 0.3  # combinations have views in common, so they differ less than pairs


def test_some_of_many_combinations_suffice() -> None:
    whole = with_costs("iou", plan=plan_of((2, 1, True), (2, 1, True), (6, 3, False)))
    some = np.arange(0, len(whole.combinations), 5)
    rows = whole.rows | {"combination_cost": whole["combination_cost"][:, some]}
    found = importance(replace(whole, rows=rows, combinations=whole.combinations[some]), trees=40, repeats=2)
    assert next(iter(found.drop)) == "crop position"
    assert found.held_out > 0.3


def test_noise_is_not_explained() -> None:
    found = importance(with_costs(None), trees=40, repeats=2)
    assert found.explained < 0.1
    assert max(found.drop.values()) < 0.1


def test_the_table_is_of_the_pairs_asked_for() -> None:
    telemetry = with_costs("iou", 300)
    pair = np.arange(300) % 6
    x, y, columns = table(telemetry, pair)
    iou = pair_quantities(telemetry.views())["iou"]
    for n in (0, 1, 17, 299):
        a, b = telemetry.combinations[pair[n]]
        assert x[n, columns["crop position"][0]] == pytest.approx(float(iou[a, b, n]))
        jitter = telemetry["jitter"][n, [a, b], 0]
        assert x[n, columns["brightness"]] == pytest.approx([abs(jitter[0] - jitter[1]), jitter.mean()], abs=1e-6)
        cost = telemetry["combination_cost"][n]
        assert y[n] == pytest.approx(cost[pair[n]] - cost.mean(), abs=1e-5)


def test_what_can_not_be_asked_is_refused() -> None:
    with pytest.raises(InputError, match="costs of at least two combinations"):
        importance(synthetic(plan_of((2, 2, True)), 300))
    with pytest.raises(InputError, match=r"at least 200 costs, of 8 pictures; there are 100, of 100"):
        importance(with_costs("iou", 100))
    alone = with_costs("iou", 300)
    alone.rows["image"] = np.zeros(300, int)
    with pytest.raises(InputError, match=r"there are 300, of 1"):
        importance(alone)
    alone.rows["cost_mean"] = np.full(300, np.nan)
    with pytest.raises(InputError, match="candidates were not scored"):
        importance(alone)
