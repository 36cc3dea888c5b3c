"""Batches of images that are not 8-bit RGB, decoded as asked for or held in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from hardviews.data.loading import in_memory as holding
from hardviews.data.loading.in_memory import is_held
from hardviews.data.loading.loader import Loader
from hardviews.data.reading.bounds import UNBOUNDED
from hardviews.data.sources import as_source, open_source
from hardviews.views.pixels import Pixels


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_have_the_form_of_the_run(in_memory: bool) -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (12, 16, 16, 5)).astype(np.uint16)
    form = Pixels(5, "uint16", (0,), (4095,), False)
    loader = Loader(as_source(list(stored)), batch_size=4, seed=0, in_memory=in_memory, form=form)
    batch = next(loader.batches(0))
    assert batch.form == form
    for row, index in enumerate(batch.index.tolist()):
        assert np.array_equal(batch.image(row).permute(1, 2, 0).numpy(), stored[index])


def test_what_is_held_is_counted_in_bytes_of_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    source = as_source([np.zeros((16, 16, 3), np.uint8)] * 10)
    monkeypatch.setattr(holding, "RESIDENT_BYTES", 10 * 16 * 16 * 3)
    assert is_held(source, "auto")
    assert not is_held(source, "auto", Pixels(3, "uint16"))
    assert is_held(source, "auto", Pixels(1, "uint16", rgb=False))


def test_a_bar_moves_while_images_are_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: dict[str, int] = {}

    @contextmanager
    def bars(show: bool) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
        def start(name: str, length: int) -> Callable[[int], None]:
            assert length == 20
            return lambda done: moved.update({name: moved.get(name, 0) + done})

        yield start

    monkeypatch.setattr(holding, "progress_bars", bars)
    assert holding.held(open_source("shapes:20"), UNBOUNDED, True, torch.device("cpu")) is not None
    assert moved == {"reading shapes": 20}
