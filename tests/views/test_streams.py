import pytest
import torch

from hardviews.views.streams import stream


def numbers(seed: int, purpose: str, *counters: int) -> list[float]:
    return torch.rand(4, generator=stream(seed, purpose, *counters)).tolist()


def test_same_key_same_numbers() -> None:
    assert numbers(3, "views", 7) == numbers(3, "views", 7)


@pytest.mark.parametrize(
    "other",
    [
        (4, "views", 7),
        (3, "masks", 7),
        (3, "views", 8),
        (3, "views"),
        (3, "views", 7, 0),
        (4, "views", 6),
        (7, "views", 3),
    ],
)
def test_other_key_other_numbers(other: tuple[int, str, int]) -> None:
    """Also where sums or the concatenated text of the keys agree."""
    assert numbers(*other) != numbers(3, "views", 7)


def test_counters_do_not_run_together() -> None:
    assert numbers(1, "views", 11) != numbers(1, "views", 1, 1)
    assert numbers(1, "views", 1) != numbers(1, "views1")


def test_golden() -> None:
    """A run resumes with the numbers it began with, also under a later version."""
    assert torch.randint(1000, (4,), generator=stream(0, "views", 1)).tolist() == [835, 931, 229, 66]
