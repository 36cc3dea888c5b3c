"""Means, paired differences and their intervals, against scipy's own test and by hand."""

import math

import pytest
from scipy import stats

from hardviews.comparison.statistics import Form, MeasuredRun, compare, paired, sentences, spread, table

PERCENT = Form(100.0, 2)
TIMED = {"random": 6.0, "hardest": 10.0}


def shown(_: str) -> Form:
    return PERCENT


def runs(arm: str, values: dict[int, float], epochs: int = 10, seconds: float = 60.0) -> list[MeasuredRun]:
    return [MeasuredRun(arm, seed, epochs, seconds, {"knn_top1": value}) for seed, value in values.items()]


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    arm, plain = {0: 0.42, 1: 0.40, 2: 0.45, 3: 0.41}, {0: 0.40, 1: 0.395, 2: 0.41, 3: 0.42}
    found = paired(arm, plain)
    test = stats.ttest_rel(list(arm.values()), list(plain.values()))
    assert found is not None
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)), abs=1e-12)
    assert found.distinguishable == (test.pvalue < 0.05)


def test_by_hand() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 3.0, 9: 100.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert found is not None
    assert (found.seeds, found.mean) == (3, 2.0)  # seed 9 has no partner
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert not found.distinguishable
    assert spread({0: 1.0, 1: 2.0, 2: 3.0}).deviation == 1.0


def test_one_seed_says_nothing_of_noise() -> None:
    found = paired({0: 0.9}, {0: 0.1})
    assert found is not None
    assert found.half_width == math.inf
    assert not found.distinguishable
    assert paired({0: 0.9}, {1: 0.1}) is None
    assert math.isnan(spread({0: 1.0}).deviation)


def test_rows_stand_in_their_order_and_know_what_they_are() -> None:
    every = [
        *runs("hardest", {0: 0.5, 1: 0.52}, epochs=6, seconds=61.0),
        *runs("hardest", {0: 0.6, 1: 0.62}, seconds=100.0),
        *runs("random", {0: 0.4, 1: 0.42}),
    ]
    rows = compare(every, "random", 10, TIMED)
    assert [(row.arm, row.epochs, row.kind) for row in rows] == [
        ("random", 10, "baseline"),
        ("hardest", 10, "equal epochs"),
        ("hardest", 6, "equal time"),
    ]
    difference = rows[2].differences["knn_top1"]
    assert difference is not None
    assert difference.mean == pytest.approx(0.1)
    head, cells = table(rows, shown)
    assert head[-2:] == ["knn top1", "difference (95 %)"]
    assert cells[0][-2:] == ["41.00 ± 1.41", ""]
    assert cells[1][3:] == ["1.67", "10", "1.7", "61.00 ± 1.41", "+20.00 (+20.00 to +20.00)"]
    said = sentences(rows, shown)
    assert said[0].startswith("hardest, as many epochs (10), 1.67 of random's time: knn top1 +20.00")
    assert said[1].startswith("hardest, equal time (6 epochs, 1.00 of the time of random's 10): knn top1 +10.00")
    assert len(said) == 2  # intervals without any width are not counted as such


def test_the_time_is_that_of_steps_timed_side_by_side_and_runs_that_took_another_are_named() -> None:
    """A machine that is busy beside some runs must not make an arm look cheap; seeds without a partner do not count."""
    every = [
        *runs("random", {0: 0.4, 1: 0.42}, seconds=90.0), *runs("random", {2: 0.4}, seconds=9000.0),
        *runs("hardest", {0: 0.6, 1: 0.62}, seconds=60.0), *runs("hardest", {0: 0.5, 1: 0.5}, epochs=6, seconds=92.0),
    ]  # fmt: skip
    rows = compare(every, "random", 10, TIMED)
    assert [row.ratio for row in rows] == pytest.approx([1, 10 / 6, 1])
    assert [row.took for row in rows] == pytest.approx([1, 60 / 90, 92 / 90])
    said = sentences(rows, shown)
    assert said[0].startswith("hardest, as many epochs (10), 1.67 of random's time")
    assert said[-1].startswith("The runs themselves took other parts of random's time")
    assert "side by side: 0.67 in place of 1.67 (hardest, 10 epochs). The" in said[-1]


def test_that_there_are_several_intervals_is_said() -> None:
    hard = runs("hardest", {0: 0.45, 1: 0.46, 2: 0.44})
    every = [*runs("random", {0: 0.40, 1: 0.41, 2: 0.395}), *hard, *runs("hardest", {0: 0.4, 1: 0.43, 2: 0.41}, 6)]
    said = sentences(compare(every, "random", 10, TIMED), shown)
    assert said[2] == "These are 2 intervals: about one in twenty leaves zero out by chance alone."


@pytest.mark.parametrize(
    ("hard", "says"),
    [
        ({0: 0.45, 1: 0.46, 2: 0.44}, "more than noise"),
        ({0: 0.45, 1: 0.35, 2: 0.42}, "not distinguishable from noise: with these 3 seeds nothing below"),
        ({0: 0.45}, "one seed tells nothing of noise"),
        ({0: 0.41, 1: 0.42}, "the same with all 2 seeds, which tells nothing of noise"),
        ({7: 0.45}, "no seed in common"),
    ],
)
def test_in_words(hard: dict[int, float], says: str) -> None:
    rows = compare([*runs("random", {0: 0.40, 1: 0.41, 2: 0.395}), *runs("hardest", hard)], "random", 10, TIMED)
    assert says in sentences(rows, shown)[0]


def test_without_the_baseline_nothing_is_claimed() -> None:
    assert sentences(compare(runs("hardest", {0: 0.5}), "random", 10, TIMED), shown) == [
        "No run of the baseline is finished yet."
    ]
