"""Counts agree with their nouns."""

from hardviews.wording import several


def test_one_is_singular_and_all_else_plural() -> None:
    assert [several(count, "step") for count in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
    assert [several(count, "process", "processes") for count in (1, 2)] == ["1 process", "2 processes"]
