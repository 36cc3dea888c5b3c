"""What is said of the kept views, against counting and enumeration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardviews.analysis.choices import (
    _effects,
    colours,
    iou_parts,
    overlaps,
    pair_probabilities,
    preferences,
    selecting_runs,
)
from hardviews.analysis.figure import Line, merged, number
from hardviews.analysis.run import Run
from hardviews.analysis.statistics import pair_quantities, quantities
from hardviews.telemetry.reading import Telemetry
from hardviews.views.plan import ViewPlan
from tests.analysis.test_statistics import synthetic
from tests.selection.brute_force import every_combination, plan_of

PLANS = [plan_of((4, 2, True)), plan_of((2, 1, True), (2, 1, True), (4, 2, False)), plan_of((5, 3, True))]


def run_of(telemetry: Telemetry) -> Run:
    n = len(telemetry)
    metrics = {"step": np.arange(n, dtype=float), "epoch": np.zeros(n)}
    return Run(Path("somewhere"), "run", {"method": {"name": "m"}}, metrics, {}, [], None, {}, telemetry)


@pytest.mark.parametrize("plan", PLANS)
def test_chances_are_those_of_all_combinations(plan: ViewPlan) -> None:
    combos = every_combination(plan).tolist()
    for t in range(plan.targets):
        for v in range(plan.draw):
            both = sum(t in combo and v in combo for combo in combos) / len(combos)
            assert float(pair_probabilities(plan)[t, v]) == pytest.approx(both if t != v else 0)


@pytest.mark.parametrize("plan", PLANS)
def test_histograms_are_those_of_every_pair(plan: ViewPlan) -> None:
    rows, edges = synthetic(plan, 15), np.linspace(0, 1, 6)
    iou = pair_quantities(rows.views())["iou"].numpy()
    kept, random = iou_parts(rows, edges)
    assert kept.sum() == pytest.approx(1)
    assert random.sum() == pytest.approx(1)

    def counted(combos: list[list[int]], row: int) -> list[float]:
        return [
            float(iou[t, v, row]) for ids in combos for t in ids if t < plan.targets for v in ids if v != t
        ]  # fmt: skip

    ours = [value for row in range(15) for value in counted([rows["kept"][row].tolist()], row)]
    every = [value for row in range(15) for value in counted(every_combination(plan).tolist(), row)]
    assert kept == pytest.approx(np.histogram(ours, edges)[0] / len(ours))
    assert random == pytest.approx(np.histogram(every, edges)[0] / len(every))
    assert np.mean(every) == pytest.approx(quantities(rows)["iou"].random.mean())


def test_a_preference_is_in_standard_deviations() -> None:
    """Kept are always 0 and 1, which are brighter than the others by what the standard deviation is made of."""
    n = 40
    jitter = np.tile(np.array([1, 1, 1, 0], np.float32), (n, 4, 1))
    jitter[:, 0, 0], jitter[:, 1, 0] = 0.5, 1.5
    telemetry = synthetic(
        PLANS[0], n, jitter=jitter, kept=np.tile(np.array([0, 1], np.int16), (n, 1)),
        grey=np.zeros((n, 4), bool), solarize=np.zeros((n, 4), bool),
    )  # fmt: skip
    run = run_of(telemetry)
    of = selecting_runs([run])
    # Differences of pairs 01 02 03 12 13 23: 1, ½, ½, ½, ½, 0; mean ½, deviation sqrt(2 · ¼ / 6).
    (figure,) = preferences([run], of)
    assert figure.table is not None
    table = {row[0]: row[1] for row in figure.table.rows}
    assert table["brightness diff."] == f"+{0.5 / np.sqrt(0.5 / 6):.2f}"
    assert next(iter(table)) == "brightness diff."
    assert "grey" not in table  # no view is
    names = [one.name for one in colours([run], of)]
    assert "brightness-difference" in names
    assert not {"grey", "solarize-difference", "contrast-difference"} & set(names)


def test_what_any_run_prefers_stands_above_what_none_does() -> None:
    """The first run is often the plain one, which prefers nothing."""
    telemetry = synthetic(PLANS[0], 200)
    blurred = np.argsort(telemetry["blur"], 1)[:, 2:].astype(np.int16)
    random = np.tile(np.array([0, 1], np.int16), (200, 1))
    runs = [
        replace(run_of(synthetic(PLANS[0], 200, kept=kept)), name=name, arm=arm, arm_name=name)
        for arm, (name, kept) in enumerate((("plain", random), ("hard", np.sort(blurred, 1))))
    ]
    (figure,) = preferences(runs, selecting_runs(runs))
    assert figure.table is not None
    hard = [abs(float(row[2].replace("−", "-"))) for row in figure.table.rows if row[2] != "–"]
    assert hard[0] == max(hard)


def test_chance_is_no_preference() -> None:
    """Kept at random: intervals of 95 % hold 0 as often as they should, and what differs most is rarely named."""
    random = np.tile(np.array([0, 1], np.int16), (200, 1))
    inside, named = [], 0
    for seed in range(20):
        run = run_of(synthetic(PLANS[0], 200, seed, kept=random))
        of = selecting_runs([run])
        inside += [abs(effect) < 1.96 * error for effect, error in _effects(of[0]).values() if np.isfinite(effect)]
        named += "Largest difference: nothing beyond chance." not in preferences([run], of)[0].caption
        few = run_of(synthetic(PLANS[0], 3, seed, kept=random[:3]))  # of which nothing can be said
        named += (
            "Largest difference: nothing beyond chance." not in preferences([few], selecting_runs([few]))[0].caption
        )
    assert 0.9 < np.mean(inside) < 0.99
    assert named <= 3
    telemetry = synthetic(PLANS[0], 200)
    telemetry.rows["kept"] = np.sort(np.argsort(telemetry["blur"], 1)[:, 2:].astype(np.int16), 1)
    run = run_of(telemetry)
    assert "Largest difference: blur diff." in preferences([run], selecting_runs([run]))[0].caption


def test_runs_that_chose_nothing_are_left_out() -> None:
    telemetry = synthetic(PLANS[0], 6, chosen=np.zeros(6, bool))
    run = run_of(telemetry)
    assert selecting_runs([run]) == []
    assert overlaps([run], []) == preferences([run], []) == colours([run], []) == []


def test_long_runs_are_thinned_and_means_weighted() -> None:
    epoch = np.repeat(np.arange(60, dtype=np.int32), 3)
    telemetry = synthetic(PLANS[0], 180, epoch=epoch, chosen=np.arange(180) % 3 > 0)
    (one,) = selecting_runs([run_of(telemetry)])
    assert len(one.table["epoch"]) == 24
    assert one.table["epoch"][[0, -1]].tolist() == [0, 59]
    short = telemetry.where(epoch < 5)
    (few,) = selecting_runs([run_of(short)])
    assert few.mean("iou_kept") == pytest.approx(np.nanmean(quantities(short)["iou"].kept))
    assert torch.equal(few.rows.kept(), short.where(short["chosen"]).kept())


def test_what_runs_are_compared_with_is_drawn_once_where_it_is_the_same() -> None:
    x, y = np.arange(3.0), np.array([1.0, 2, 3])
    kept = [Line("a, kept", x, y, 0), Line("b, kept", x, y + 1, 1)]
    same = [Line("a, random", x, y, 0, True), Line("b, random", x, y + 1e-9, 1, True)]
    both = merged([*kept, *same])
    assert [(line.label, line.colour) for line in both[2:]] == [("random", "muted")]
    other = [*kept, same[0], Line("b, random", x, y * 2, 1, True)]
    assert merged(other) == other
    third = Line("c, random", x, y * 2, 2, True)
    assert [line.label for line in merged([*other, third])][2:] == ["a, random", "b and c, random"]


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0.4868, True, "48.7%"), (49.0, False, "49.0"), (123.4, False, "123"), (12345.6, False, "12,346"),
     (0.0, False, "0"), (1e-5, False, "1.0e−05"), (-0.0391, False, "−0.0391"), (float("nan"), True, "–")],
)  # fmt: skip
def test_numbers_are_short(value: float, percent: bool, text: str) -> None:
    assert number(value, percent) == text
