"""What seeds can show, against simulated comparisons."""

import math

import numpy as np
import pytest

from hardviews.comparison.power import POWER, chance, power_of, seeds_for, smallest_shown
from hardviews.comparison.statistics import ArmResult, MeasuredRun, compare, paired, quantile


@pytest.mark.parametrize(("difference", "seeds"), [(0.0, 3), (1.0, 4), (2.0, 3), (-1.0, 8)])
def test_the_chance_is_that_of_simulated_tests(difference: float, seeds: int) -> None:
    draws = np.random.default_rng(0).normal(difference, 1.5, (100_000, seeds))
    error = draws.std(1, ddof=1) / math.sqrt(seeds)
    found = float((abs(draws.mean(1)) > quantile(seeds - 1) * error).mean())
    assert chance(difference, seeds, 1.5) == pytest.approx(found, abs=0.006)


def test_what_is_shown_and_what_is_needed_agree() -> None:
    for deviation in (0.3, 1.0, 4.0):
        for seeds in (2, 3, 10):
            assert chance(smallest_shown(seeds, deviation), seeds, deviation) == pytest.approx(POWER, abs=1e-6)
        needed = seeds_for(1.0, deviation)
        assert needed is not None
        assert chance(1.0, needed, deviation) >= POWER
        assert needed == 2 or chance(1.0, needed - 1, deviation) < POWER
    assert seeds_for(0.001, 1.0) is None


def rows(*arms: dict[int, float]) -> list[ArmResult]:
    every = {"random": {0: 0.5, 1: 0.52, 2: 0.49}} | {f"arm-{number}": arm for number, arm in enumerate(arms)}
    runs = [
        MeasuredRun(name, seed, 5, 1.0, {"knn_top1": value})
        for name, arm in every.items()
        for seed, value in arm.items()
    ]
    return compare(runs, "random", 5, dict.fromkeys(every, 1.0))


def test_the_deviation_is_pooled_over_arms() -> None:
    some = {0: 0.51, 1: 0.55, 2: 0.50}, {0: 0.56, 1: 0.50}
    found = power_of(rows(*some), "knn_top1")
    assert found is not None
    differences = [np.array([0.01, 0.03, 0.01]), np.array([0.06, -0.02])]
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in differences)
    assert found.deviation == pytest.approx(math.sqrt(squares / 3))
    assert (found.degrees, found.seeds) == (3, 3)
    one = paired(some[0], {0: 0.5, 1: 0.52, 2: 0.49})
    assert one is not None
    # Half an interval is what is found every other time; four times out of five takes more.
    assert found.shows > one.half_width


def test_without_two_seeds_or_any_noise_nothing_is_said() -> None:
    assert power_of(rows({0: 0.6}), "knn_top1") is None
    assert power_of(rows({0: 0.6, 1: 0.62, 2: 0.59}), "knn_top1") is None  # the same difference each time
    assert power_of(rows({0: 0.6, 1: 0.5}), "linear_top1") is None
