"""Every kind of collapse is said once; what is healthy, or only begins, is not."""

import math
from typing import Any

import pytest
import torch

from hardviews.methods.base import feature_std
from hardviews.training.collapse import CollapseWatch


def told(rows: list[dict[str, Any]], ranks: list[float] | None = None) -> list[str]:
    said: list[str] = []
    watch = CollapseWatch(said.append)
    for row in rows:
        watch.note([{"skipped": 0.0, **row}])
    watch.measured(ranks or [])
    return said


def epochs(*values: dict[str, float]) -> list[dict[str, float]]:
    """Two steps of every epoch."""
    return [{"epoch": epoch, **value} for epoch, value in enumerate(values) for _ in range(2)]


UNIFORM = {"teacher_entropy": math.log(512), "teacher_entropy_of_mean": math.log(512)}
ALL_IN_ONE = {"teacher_entropy": 0.0, "teacher_entropy_of_mean": 0.0}
HEALTHY = {"teacher_entropy": 1.7, "teacher_entropy_of_mean": 4.3, "feature_std": 0.9}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (UNIFORM, "hardly tells"),
        (ALL_IN_ONE, "hardly tells"),
        ({"feature_std": 0.01}, "nearly the same"),
    ],
)
def test_each_sign_is_said_once_and_not_of_the_first_epoch(bad: dict[str, float], says: str) -> None:
    assert told(epochs(bad, HEALTHY, HEALTHY)) == []
    [line] = told(epochs(HEALTHY, bad, bad, bad, HEALTHY))
    assert line.startswith("collapse?")
    assert says in line
    assert "in epoch 2" in line
    assert "; try " in line


def test_a_skipped_step_is_no_sign() -> None:
    rows = epochs(HEALTHY, HEALTHY, HEALTHY)
    rows[2] |= {"skipped": 1.0, "feature_std": math.nan, "teacher_entropy": math.nan}
    assert told(rows) == []


def test_a_rank_that_falls_is_one_that_halves_is_none() -> None:
    assert told([], [31.0, 14.0, 20.0]) == []
    assert "fell from 31.0 to 2.0" in told([], [31.0, 14.0, 2.0])[0]


def test_feature_std_is_one_on_the_sphere_and_nothing_in_a_point() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(2, 4096, 64)
    assert float(feature_std(5 * vectors)) == pytest.approx(1.0, abs=0.02)
    assert float(feature_std(vectors[:, :1].expand(-1, 4096, -1))) == pytest.approx(0.0, abs=1e-4)
    assert float(feature_std(vectors + 100)) < 0.02  # a common direction hides what differs
