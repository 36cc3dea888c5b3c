"""What a run's verdict says, by hand, and what it tells to try."""

from math import sqrt
from typing import Any

import pytest

from hardviews.analysis.verdict import standard_error, verdict
from hardviews.runs.verdict import lines, verdict_of

OF = {"knn_test_images": 600, "knn_top1_untrained": 0.2, "knn_top1_pixels": 0.3, "steps": 108}
CONFIG: dict[str, Any] = {"epochs": 12, "batch_size": 64, "lr": 0.3, "recipe": None, "init": None, "backbone": {}}


def test_standard_errors_are_binomial() -> None:
    assert standard_error(0.3, 600) == pytest.approx(sqrt(0.3 * 0.7 / 600), rel=5e-3)
    assert standard_error(0.5, 96) == pytest.approx(0.05)
    for part in (0.0, 1.0):
        assert standard_error(part, 20) == pytest.approx(sqrt(1 / 12 * 11 / 12 / 24))
    found = verdict({**OF, "knn_top1": 0.36})
    assert found is not None
    assert found.error == standard_error(0.36, 600)
    assert found.resolution == pytest.approx(2 * sqrt(standard_error(0.36, 600) ** 2 + standard_error(0.3, 600) ** 2))


@pytest.mark.parametrize(
    ("trained", "kind", "says"),
    [
        (0.42, "learned", "training has paid: 12.0 points above raw pixels, 4.4 standard errors of the difference"),
        (0.33, "unclear", "no clear gain: 3.0 points above raw pixels; 600 images show only differences above 5.3"),
        (0.30, "below", "training has not paid: no better than raw pixels"),
        (
            0.23,
            "below",
            "training has not paid: 7.0 points below raw pixels (two standard errors of the difference are 5.1)",
        ),
    ],
)
def test_it_compares_with_raw_pixels(trained: float, kind: str, says: str) -> None:
    found = verdict({**OF, "knn_top1": trained})
    assert found is not None
    assert (found.kind, found.says) == (kind, says)


def test_weights_that_were_better_before_are_what_it_compares_with() -> None:
    figures = {**OF, "knn_top1_untrained": 0.8, "knn_top1": 0.7}
    (first, second) = lines(CONFIG | {"init": "f.pth"}, figures, verdict_of(CONFIG | {"init": "f.pth"}, figures))
    assert first.startswith("verdict: training has not paid: 10.0 points below the weights that it began with (two ")
    assert second.startswith("try --recipe small_rgb_tuned: a low rate")
    config = CONFIG | {"init": "f.pth", "recipe": "small_rgb_tuned", "lr": 0.001}
    assert lines(config, figures, verdict_of(config, figures))[1] == "try a lower rate: --lr 0.00033 in place of 0.001"


def test_there_is_none_without_figures_or_of_other_images() -> None:
    for figures in (
        {},
        {**OF},
        {"knn_top1": 0.4, "knn_test_images": 600},
        {**OF, "knn_top1": 0.4, "knn_test_images_untrained": 60},
        {name: value for name, value in OF.items() if name != "knn_test_images"} | {"knn_top1": 0.4},  # of old versions
    ):
        assert verdict(figures) is None
        assert lines(CONFIG, figures, verdict_of(CONFIG, figures)) == []


def test_what_to_try_has_the_runs_own_numbers() -> None:
    """108 steps in 12 epochs are 9 an epoch, so 2,000 steps are 223 epochs."""
    figures = {**OF, "knn_top1": 0.23}
    _, tries = lines(CONFIG, figures, verdict_of(CONFIG, figures))
    assert "--recipe small_rgb, made for sets of this size" in tries
    assert "--epochs 223, since 108 steps are few" in tries
    long = {**figures, "steps": 3600}
    _, tries = lines(CONFIG | {"epochs": 400, "recipe": "small_rgb"}, long, verdict_of(CONFIG, long))
    more = "more labelled images, by --test-data: 600 show only differences above 5.1 points"
    assert tries == f"try more images: 400 epochs of 576 are many already; or {more}"
    short = CONFIG | {"epochs": 300, "recipe": "small_rgb"}
    assert "--epochs 400, in place of 300" in lines(short, long, verdict_of(short, long))[1]
    few = CONFIG | {"epochs": 3, "batch_size": 16, "recipe": "small_rgb"}
    tries = lines(few, {**figures, "steps": 9}, verdict_of(few, figures))[1]
    assert "--epochs 400, since 9 steps are few" in tries  # not the 667 that 2,000 steps would take
    assert len(lines(CONFIG, {**OF, "knn_top1": 0.42}, verdict_of(CONFIG, {**OF, "knn_top1": 0.42}))) == 1
