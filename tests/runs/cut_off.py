"""A run that ends as if it were killed, just after it has saved."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hardviews.training.loop import Loop


@contextmanager
def cut_off_after(step: int) -> Iterator[None]:
    """Runs in this context end when they have saved a step, which one of them must."""
    save = Loop._save

    def save_and_die(self: Loop, done: int, ends_epoch: bool) -> None:
        save(self, done, ends_epoch)
        if done == step:
            raise MemoryError("cut off")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_save", save_and_die)
        with pytest.raises(MemoryError, match="cut off"):
            yield
