"""Workers are missed when they hang, and not when what they are given to do comes late."""

import time
from collections.abc import Iterator

import pytest
from torch.utils.data import Dataset

from hardviews.data.loading import workers
from hardviews.data.loading.workers import by_workers
from hardviews.errors import RunError


class Doubled(Dataset[int]):
    """Key → twice the key; from ``stuck`` on for ever."""

    def __init__(self, stuck: int = 1000) -> None:
        self.stuck = stuck

    def __getitem__(self, key: int) -> int:
        if key >= self.stuck:
            time.sleep(1000)
        return 2 * key


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GLANCE", 1)
    monkeypatch.setattr(workers, "PATIENCE", 3)


def test_keys_may_be_late() -> None:
    """Those of a stream come from a network."""

    def late() -> Iterator[int]:
        for key in range(12):
            if key == 8:  # when earlier ones have been given out
                time.sleep(6)
            yield key

    assert list(by_workers(Doubled(), late(), 2)) == [2 * key for key in range(12)]


def test_so_may_who_takes_the_batches() -> None:
    made = by_workers(Doubled(), range(12), 2)
    first = next(made)
    time.sleep(6)
    assert [first, *made] == [2 * key for key in range(12)]


def test_a_worker_may_not() -> None:
    made = by_workers(Doubled(stuck=7), range(12), 2)
    assert [next(made) for _ in range(7)] == [2 * key for key in range(7)]
    with pytest.raises(RunError, match="loading images failed: no batch came for 3 s"):
        next(made)
