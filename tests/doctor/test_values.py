"""What the doctor says of stored values: their part of the type, what is cut, what is no number."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardviews.data.reading.forms import noted
from hardviews.doctor.checks import Check
from hardviews.doctor.contents import check_contents, contents_of
from hardviews.doctor.values import check_values, values_of
from hardviews.probing.sample import DecodedSample
from hardviews.setup.look import Look
from hardviews.views.pixels import RGB, Pixels

RANDOM = np.random.default_rng(0)


def images(low: float, high: float, dtype: str = "uint16", channels: int = 1, count: int = 6) -> list[Tensor]:
    values: NDArray[Any] = RANDOM.uniform(low, high, (count, 30, 32, channels)).astype(dtype)
    return list(torch.from_numpy(values))


def check(pictures: list[Tensor], form: Pixels) -> Check:
    (found,) = check_values(Look(pictures), form)
    return found


def test_nothing_is_said_of_eight_bits() -> None:
    eight = images(0, 256, "uint8", 3)
    assert list(check_values(Look(eight), RGB)) == list(check_values(Look([]), RGB)) == []
    assert list(check_values(Look(images(0, 256, "uint8", 5)), Pixels(5, rgb=False))) == []
    assert check(eight, Pixels(3, low=(100,))).verdict == "warning"


def test_twelve_bits_in_sixteen_are_found_where_8_bits_are_made_of_them() -> None:
    pictures = images(0, 4096)
    for one in pictures:
        one[0, 0], one[0, 1] = 0, 4095
    found = check(pictures, RGB)
    assert found.verdict == "warning"
    assert found.says == "1 channel of uint16: values 0 to 4095 of 0 to 65535; 8-bit RGB keeps 16 levels of them"
    assert "--channels auto" in found.remedy
    assert check(pictures, Pixels(1, "uint16", (0,), (4095,), False)).verdict == "ok"
    assert check(images(0, 65536), RGB).verdict == "ok"


def test_values_at_the_ends_are_said_and_those_cut_are_a_fault() -> None:
    pictures = images(200, 4000)
    for one in pictures:
        one[:9], one[9:12] = 100, 4095  # 30 % and 10 %
    found = check(pictures, Pixels(1, "uint16", (100,), (4095,), False))
    assert found.verdict == "ok"
    assert found.says.endswith("; 30% have the lowest value, 100; 10% have the highest value, 4095")
    cut = check(pictures, Pixels(1, "uint16", (1000,), (3000,), False))
    assert cut.verdict == "warning"
    every = np.stack(pictures)
    below, above = ((every < 1000) & (every > 100)).mean(), ((every > 3000) & (every < 4095)).mean()
    assert (cut.figures["below"], cut.figures["above"]) == (pytest.approx(below), pytest.approx(above))
    assert f"{below:.0%} lie below the range that is shown to the network, and are cut" in cut.says
    assert cut.remedy == "a wider --value-range"
    assert values_of(pictures, Pixels(1, "uint16", (0,), (65535,), False, (1, 99))).below == 0


def test_what_was_no_number_is_counted() -> None:
    pictures = images(0, 1, "float32", 2)
    noted(pictures[0], 96)
    found = check(pictures, Pixels(2, "float32", (0,), (1,), False))
    assert found.verdict == "warning"
    assert "0.83% are no finite numbers" in found.says
    assert found.remedy == (
        "files without NaN and infinity, which become the lowest value of the range and its nearer end"
    )
    assert found.figures["not_finite"] == pytest.approx(96 / (6 * 30 * 32 * 2))


def test_of_several_kinds_the_runs_is_looked_at() -> None:
    both = images(0, 4096, count=2) + images(0, 256, "uint8", 3)
    assert check(both, Pixels(1, "uint16", (0,), (4095,), False)).says.startswith("1 channel of uint16")


def test_of_a_mixed_set_every_kind_that_is_converted_is_looked_at() -> None:
    twelve = images(0, 4096, count=2)
    for one in twelve:
        one[0, 0], one[0, 1] = 0, 4095
    found = check(images(0, 256, "uint8", 3) + twelve, RGB)
    assert found.verdict == "warning"
    assert found.says == "1 channel of uint16: values 0 to 4095 of 0 to 65535; 8-bit RGB keeps 16 levels of them"
    assert found.remedy == "--channels auto, which reads what is stored (12 bits often lie in 16)"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_dead_and_a_saturated_band_are_named(dtype: str) -> None:
    most = 255 if dtype == "uint8" else 60000
    form = Pixels(5, dtype, (0,), (most,), False)  # type: ignore[arg-type]
    pictures = images(0, most, dtype, 5)
    assert all("channel" not in found.says.removeprefix("5 channels") for found in check_values(Look(pictures), form))
    for one in pictures:
        one[..., 1] = 7
        one[:10, :, 3] = most
        one[:, :, 4] = 0
    found = check(pictures, form)
    assert found.verdict == "warning"
    assert (found.figures["dead"], found.figures["saturated"]) == ((2, 5), (4,))
    assert "; channels 2, 5 of 5 have one value nearly everywhere" in found.says
    assert "; channel 4 of 5 has the highest value at 25% of the pixels or more, unlike others" in found.says
    assert found.remedy == "files without such channels, if they are faults of the sensor"
    for one in pictures:
        one[...] = 7
    assert values_of(pictures, form).dead == ()  # which the check of contents tells


def test_what_is_no_number_is_no_value() -> None:
    """Before, it counted as the least value of its image."""
    pictures = images(5, 6, "float32", 2)
    for one in pictures:
        one[:15, :, 0] = torch.nan
        one[0, 0, 1] = -torch.inf
    found = values_of(pictures, Pixels(2, "float32", (0,), (10,), False))
    assert 5 <= found.least < found.most <= 6
    assert found.at_least < 0.01
    assert (found.below, found.above, found.dead, found.saturated) == (0, 0, (), ())
    nothing = values_of([torch.full((9, 9, 1), torch.nan)], Pixels(1, "float32", (0,), (10,), False))
    assert (nothing.least, nothing.most) == (0, 0)


@pytest.mark.parametrize(
    ("pictures", "form", "says"),
    [
        (images(0, 4096), Pixels(1, "uint16", (0,), (4095,), False), "6 pictures, none of them like another"),
        (images(0, 4096), Pixels(1, "uint16", (0,), (65535,), False), "of the levels 0 to 255 they use 0 to 16 alone"),
        (images(-1, 1, "float32", 13), Pixels(13, "float32", (-1,), (1,), False), "none of them like another"),
        (images(0, 256, "uint8", 4) * 4, Pixels(4, rgb=False), "24 of 24 pictures are nearly the same as another"),
        ([torch.full((9, 9, 2), n, dtype=torch.int16) for n in range(0, 900, 90)],
         Pixels(2, "int16", (0,), (900,), False), "10 of 10 show a single colour"),
    ],
)  # fmt: skip
def test_contents_of_any_channels(pictures: list[Tensor], form: Pixels, says: str) -> None:
    assert says in check_contents(contents_of(DecodedSample(pictures, form=form))).says
