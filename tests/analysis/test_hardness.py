"""Importance in words: a parameter is named only where something is explained."""

from dataclasses import replace

import pytest

from hardviews.analysis.hardness import figure
from hardviews.analysis.importance import Importance
from tests.analysis.test_choices import PLANS, run_of
from tests.analysis.test_statistics import synthetic

FOUND = Importance(0.3, 0.25, {"hue": 0.2, "blur": 0.01}, {"hue": 0.02, "blur": 0.01}, 5000)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (FOUND, "25.0% of the variance of costs on held-out pictures, and hue matters most (5,000 comb"),
        (replace(FOUND, held_out=-0.02), "nothing beyond chance (R² −0.020 on held-out pictures)"),
        (replace(FOUND, deviation={"hue": 0.2, "blur": 0.1}), "nothing beyond chance (R² 0.250"),
    ],
)
def test_in_words(found: Importance, says: str) -> None:
    assert says in figure([run_of(synthetic(PLANS[0], 5))], {0: found}).caption
