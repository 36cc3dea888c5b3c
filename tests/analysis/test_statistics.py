"""Statistics against numbers counted by hand, by enumeration, and by torchvision."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from hardviews.analysis.statistics import by_epoch, by_image, is_lowest_iou, pair_quantities, quantities
from hardviews.selection.search import target_combinations
from hardviews.telemetry.reading import Telemetry
from hardviews.views.plan import Slot, ViewPlan
from tests.selection.brute_force import every_combination, plan_of


def synthetic(plan: ViewPlan, n: int, seed: int = 0, **given: Any) -> Telemetry:
    """Random rows, one epoch, but for those given."""
    r, v = np.random.default_rng(seed), plan.draw
    corners = np.sort(r.random((n, v, 2, 2)), axis=2)
    combos = every_combination(plan).numpy()
    every = r.normal(size=(n, len(combos))).astype(np.float32)
    kept = combos[every.argmax(1)]
    rows = {
        "epoch": np.zeros(n, np.int32), "step": np.arange(n, dtype=np.int32), "image": np.arange(n),
        "box": np.concatenate([corners[:, :, 0], corners[:, :, 1]], -1).astype(np.float32),
        "flip": r.random((n, v)) < 0.5, "jitter": r.random((n, v, 4)).astype(np.float32),
        "order": np.tile(np.arange(4, dtype=np.uint8), (n, v, 1)), "grey": r.random((n, v)) < 0.2,
        "blur": r.random((n, v)).astype(np.float32), "solarize": r.random((n, v)) < 0.2,
        "masked": np.zeros((n, v), np.float32),
        "chosen": np.ones(n, bool), "rank": np.zeros(n, np.int32), "kept": kept.astype(np.int16),
        "cost": every.max(1), "cost_mean": every.mean(1), "combination_cost": every,
    } | given  # fmt: skip
    return Telemetry(plan, rows, combos, {})


def test_two_images_counted_by_hand() -> None:
    # The first: two halves, the whole, and the left half again. The second: four times the same.
    halves = [[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.5, 1]]
    box = np.array([halves, [[0, 0, 0.5, 0.5]] * 4], np.float32)
    jitter = np.tile(np.array([1, 1, 1, 0], np.float32), (2, 4, 1))
    jitter[0, :, 0] = 0.8, 1.2, 1.0, 1.0
    telemetry = synthetic(
        plan_of((4, 2, True)), 2, box=box, jitter=jitter, kept=np.array([[0, 1], [2, 3]], np.int16),
        blur=np.array([[2, 0, 0, 0], [1, 1, 1, 1]], np.float32), rank=np.array([0, 3], np.int32),
        cost=np.array([2, 4], np.float32), cost_mean=np.array([1, 2], np.float32),
    )  # fmt: skip
    found = quantities(telemetry)
    # IoU of pairs 01 02 03 12 13 23 of the first image: 0, 1/2, 1, 1/2, 0, 1/2.
    assert found["iou"].kept == pytest.approx([0, 1])
    assert found["iou"].random == pytest.approx([2.5 / 6, 1])
    assert found["overlap"].random == pytest.approx([(0 + 1 + 1 + 1 + 0 + 1) / 6, 1])
    # Halves beside each other lie one side apart, along one of the two axes: sqrt(1/2).
    assert found["distance"].kept == pytest.approx([0.5**0.5, 0])
    assert found["area"].kept == pytest.approx([0.5, 0.25])
    assert found["area"].random == pytest.approx([2.5 / 4, 0.25])
    assert found["area_difference"].random == pytest.approx([np.log(2) * 3 / 6, 0])
    assert found["shape"].kept == pytest.approx([0.5, 1])
    assert found["shape"].random == pytest.approx([2.5 / 4, 1])
    assert found["shape_difference"].random == pytest.approx([np.log(2) * 3 / 6, 0])
    assert found["brightness"].kept == pytest.approx([1, 1])
    assert found["brightness_difference"].kept == pytest.approx([0.4, 0], abs=1e-6)
    assert found["brightness_difference"].random == pytest.approx([(0.4 + 4 * 0.2 + 0) / 6, 0], abs=1e-6)
    assert found["blur"].random == pytest.approx([0.5, 1])
    assert found["blur_difference"].kept == pytest.approx([2, 0])
    lowest = is_lowest_iou(telemetry)
    assert lowest.kept.tolist() == [1, 1]
    assert lowest.random == pytest.approx([2 / 6, 1])  # two pairs share nothing; all pairs are the same
    table = by_epoch(telemetry)
    assert table["iou_random"] == pytest.approx([(2.5 / 6 + 1) / 2])
    assert (table["cost_kept"][0], table["cost_random"][0], table["rank"][0]) == (3, 1.5, 1.5)
    assert table["images"].tolist() == [2]


def test_iou_is_torchvisions_and_means_are_those_of_all_combinations() -> None:
    for plan in (plan_of((4, 2, True)), plan_of((2, 1, True), (2, 1, True), (4, 2, False)), plan_of((5, 3, True))):
        telemetry = synthetic(plan, 20)
        found, pairs = quantities(telemetry), pair_quantities(telemetry.views())
        lowest = is_lowest_iou(telemetry)
        for n in range(20):
            box = torch.from_numpy(telemetry["box"][n]).double()
            iou = box_iou(box, box)
            torch.testing.assert_close(pairs["iou"][:, :, n], iou, atol=1e-12, rtol=0)

            def of(ids: Any, plan: ViewPlan = plan, iou: torch.Tensor = iou) -> float:
                terms = [float(iou[t, v]) for t in ids if t < plan.targets for v in ids if v != t]
                return sum(terms) / len(terms)

            totals = np.array([of(ids) for ids in telemetry.combinations])
            assert found["iou"].random[n] == pytest.approx(totals.mean())
            assert found["iou"].kept[n] == pytest.approx(of(telemetry["kept"][n].tolist()))
            assert lowest.kept[n] == (of(telemetry["kept"][n].tolist()) <= totals.min() + 1e-6)
            assert lowest.random[n] == pytest.approx((totals <= totals.min() + 1e-6).mean())
            areas = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
            means = [float(areas[ids].mean()) for ids in telemetry.combinations]
            assert found["area"].random[n] == pytest.approx(np.mean(means))
            assert found["area"].kept[n] == pytest.approx(float(areas[telemetry["kept"][n].tolist()].mean()))
        assert 0 < np.mean(lowest.kept) <= 1


def test_steps_that_do_not_choose_are_left_out_and_epochs_kept_apart() -> None:
    plan, n = plan_of((4, 2, True)), 30
    chosen = np.arange(n) % 3 > 0
    telemetry = synthetic(plan, n, epoch=np.repeat(np.arange(3, dtype=np.int32), 10), chosen=chosen)
    table, whole = by_epoch(telemetry), quantities(telemetry)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["images"].tolist() == [chosen[k : k + 10].sum() for k in (0, 10, 20)]
    assert np.array_equal(np.isnan(whole["iou"].kept), ~chosen)
    for epoch in range(3):
        rows = chosen & (telemetry["epoch"] == epoch)
        assert table["iou_kept"][epoch] == pytest.approx(whole["iou"].kept[rows].mean())
        assert table["hue_difference_random"][epoch] == pytest.approx(whole["hue_difference"].random[rows].mean())


def test_without_every_combination_chance_is_not_claimed() -> None:
    telemetry = synthetic(plan_of((2, 1, True), (2, 1, True), (6, 3, False)), 5)
    fewer = replace(telemetry, combinations=telemetry.combinations[:5])
    assert np.isnan(is_lowest_iou(fewer).random).all()
    assert np.array_equal(is_lowest_iou(fewer).kept, is_lowest_iou(telemetry).kept)


def test_of_more_combinations_than_can_be_searched_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = synthetic(plan_of((4, 2, True)), 5)
    monkeypatch.setattr("hardviews.selection.search.MOST_COMBINATIONS", 5)
    target_combinations.cache_clear()
    found = by_epoch(telemetry)
    assert np.isnan(found["lowest_iou_kept"]).all()
    assert np.isfinite(found["iou_kept"]).all()


def test_hard_images_are_those_above_their_epochs_mean() -> None:
    plan = ViewPlan((Slot(draw=4, keep=2),))
    image, epoch = np.tile([7, 8, 9], 2), np.repeat(np.arange(2, dtype=np.int32), 3)
    mean = np.array([1, 2, 6, 10, 12, 11], np.float32)  # epochs' means 3 and 11
    table = by_image(synthetic(plan, 6, image=image, epoch=epoch, cost_mean=mean))
    assert table["image"].tolist() == [9, 8, 7]
    assert table["cost"].tolist() == [1.5, 0, -1.5]


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    unknown = synthetic(plan_of((4, 2, True)), 4, chosen=np.zeros(4, bool), cost_mean=np.full(4, np.nan, np.float32))
    assert np.isnan(by_epoch(unknown)["iou_kept"]).all()
    assert len(by_image(unknown)["image"]) == 0


def test_what_changes_channels_is_compared_channel_by_channel() -> None:
    tone = np.zeros((2, 4, 2, 4), np.float32)
    tone[..., 0] = tone[..., 2] = 1  # no gain, no gamma
    tone[0, 0, :, 0] = 1.5, 0.5  # on average none either, and yet apart from the others
    tone[0, :2, 1, 3] = 1  # the second channel is gone from two views
    telemetry = synthetic(plan_of((4, 2, True)), 2, tone=tone, kept=np.array([[0, 1], [2, 3]], np.int16))
    found = quantities(telemetry)
    assert found["gain"].kept == pytest.approx([1, 1])
    assert found["gain_difference"].kept == pytest.approx([0.5, 0])
    assert found["gain_difference"].random == pytest.approx([3 * 0.5 / 6, 0])
    assert found["dropped"].kept == pytest.approx([0.5, 0])
    assert found["dropped_difference"].random == pytest.approx([4 * 0.5 / 6, 0])
    assert not found["gamma_difference"].kept.any()
    assert not {"gain", "gain_difference"} & quantities(synthetic(plan_of((4, 2, True)), 2)).keys()
