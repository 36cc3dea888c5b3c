"""Samples of pictures in any form."""

from hardviews.data.reading.decode import Bounds
from hardviews.probing.sample import sampled
from hardviews.views.pixels import Pixels
from tests.evaluation.given import two_tones

FOUR = Pixels(4, "uint16", (0.0,), (10000.0,), rgb=False)


def test_a_sample_counts_the_bytes_of_its_form() -> None:
    sample = sampled(two_tones(6, FOUR), Bounds(form=FOUR), 6, 0, 60.0)
    assert sample.mean_bytes() == 32 * 32 * 4 * 2
    batch = sample.batch(7)
    assert (batch.form, len(batch)) == (FOUR, 7)
    assert sampled(two_tones(3, FOUR), Bounds(), 3, 0, 60.0).unreadable
