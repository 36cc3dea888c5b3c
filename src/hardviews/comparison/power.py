"""Which differences a number of seeds can show, from how much the paired differences vary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hardviews.comparison.statistics import EQUAL, ArmResult, quantile

POWER = 0.8  # chance that a true difference is found
MOST = 1000  # seeds
POINTS = 10_000  # of a distribution, so that a chance is right to 1 / 20,000
SHOWN = (2, 3, 5, 10, 20, 50)  # numbers of seeds in a table


@dataclass(frozen=True)
class Power:
    """What seeds can show of one figure.

    Args:
        deviation: standard deviation of the paired differences, pooled over the arms.
        degrees: of freedom that it was measured with; with few it is itself uncertain.
        seeds: of the comparison, the most of any arm.
        shows: the smallest true difference that so many seeds find with a chance of ``POWER``.
    """

    deviation: float
    degrees: int
    seeds: int
    shows: float


def power_of(rows: Sequence[ArmResult], name: str) -> Power | None:
    """Of a figure; None where no arm has two seeds in common with the baseline, or nothing varies."""
    squares, degrees, seeds = 0.0, 0, 0
    for row in rows:
        difference = row.differences.get(name)
        if row.kind != "baseline" and difference is not None and difference.seeds > 1:
            count = difference.seeds
            deviation = difference.half_width / quantile(count - 1) * math.sqrt(count)
            squares += (count - 1) * deviation**2
            degrees += count - 1
            seeds = max(seeds, count)
    if not degrees or squares <= EQUAL**2:
        return None
    deviation = math.sqrt(squares / degrees)
    return Power(deviation, degrees, seeds, smallest_shown(seeds, deviation))


def chance(difference: float, seeds: int, deviation: float) -> float:
    """The chance that a paired t-test at the 5 % level, two-sided, finds a true difference: the probability of
    |T| > t(0.975) for a noncentral T of ``seeds`` - 1 degrees of freedom and noncentrality
    ``difference`` √``seeds`` / ``deviation``. T exceeds a limit where a standard normal plus the noncentrality exceeds
    the limit times the estimated deviation, over whose distribution the mean is taken: scipy's own function is not a
    number for two seeds and large differences."""
    from scipy.special import ndtr

    shift = difference * math.sqrt(seeds) / deviation
    limits = quantile(seeds - 1) * _deviations(seeds - 1)
    return float((ndtr(shift - limits) + ndtr(-limits - shift)).mean())


@lru_cache
def _deviations(degrees: int) -> NDArray[np.float64]:
    """Equally likely values of an estimated standard deviation, of which the true one is 1."""
    from scipy.stats import chi2

    found: NDArray[np.float64] = np.sqrt(chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, degrees) / degrees)
    return found


def smallest_shown(seeds: int, deviation: float) -> float:
    """The smallest true difference that ``seeds`` (at least 2) find with a chance of ``POWER``."""
    low, high = 0.0, deviation
    while chance(high, seeds, deviation) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle, seeds, deviation) < POWER else (low, middle)
    return high


def seeds_for(difference: float, deviation: float) -> int | None:
    """The fewest seeds that find a true difference with a chance of ``POWER``; None: more than ``MOST``."""
    low, high = 1, 2
    while chance(difference, high, deviation) < POWER:
        low, high = high, 2 * high
        if low >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if chance(difference, middle, deviation) < POWER else (low, middle)
    return high if high <= MOST else None
