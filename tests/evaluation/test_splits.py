"""What is held out, and what is kept of every class."""

import pytest
import torch

from hardviews.evaluation.splits import held_out, sample, stratified


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


@pytest.mark.parametrize("count", [1, 7, 60, 500, 602])
def test_a_sample_has_of_every_class_its_share(count: int) -> None:
    labels = torch.cat([torch.zeros(400), torch.ones(150), torch.full((53,), 9)]).long()
    labels = labels[torch.randperm(603, generator=torch.Generator().manual_seed(0))]
    rows = sample(labels, count, torch.Generator().manual_seed(1))
    assert len(rows) == len(set(rows.tolist())) == count
    assert torch.equal(rows, rows.sort().values)
    for label, there in ((0, 400), (1, 150), (9, 53)):
        assert abs(int((labels[rows] == label).sum()) - count * there / 603) < 1
    other = sample(labels, count, torch.Generator().manual_seed(2))
    assert count == 602 or not torch.equal(rows, other)


def test_a_sample_of_more_than_there_are_is_all() -> None:
    labels = torch.arange(10) % 3
    for count in (0, 10, 11):
        assert torch.equal(sample(labels, count, torch.Generator()), torch.arange(10))
