"""What is held out, and what is kept of every class."""

import pytest
import torch

from hardviews.evaluation.splits import held_out, stratified


def test_held_out_is_a_tenth_and_disjoint() -> None:
    bank, queries = held_out(205, torch.Generator().manual_seed(0))
    assert len(queries) == 20
    assert sorted([*bank.tolist(), *queries.tolist()]) == list(range(205))


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 1.0])
def test_a_part_of_every_class(part: float) -> None:
    labels = torch.randint(0, 5, (603,), generator=torch.Generator().manual_seed(0))
    labels[:2] = torch.tensor([7, 7])  # a class of two
    inside, outside = stratified(labels, part, torch.Generator().manual_seed(1))
    assert sorted([*inside.tolist(), *outside.tolist()]) == list(range(603))
    assert set(labels[inside].tolist()) == {0, 1, 2, 3, 4, 7}
    for label in range(5):
        expected = max(1, round(part * int((labels == label).sum())))
        assert int((labels[inside] == label).sum()) == expected
    assert int((labels[inside] == 7).sum()) == (2 if part == 1 else 1)


def test_a_smaller_part_lies_within_a_larger_one() -> None:
    labels = torch.arange(500) % 10
    small, large = (stratified(labels, part, torch.Generator().manual_seed(3))[0] for part in (0.02, 0.2))
    assert set(small.tolist()) < set(large.tolist())
