"""Batches of images that are not 8-bit RGB, decoded as asked for or held in memory."""

import numpy as np
import pytest

from hardviews.data.loading import in_memory as holding
from hardviews.data.loading.in_memory import is_held
from hardviews.data.loading.loader import Loader
from hardviews.data.sources import as_source
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
