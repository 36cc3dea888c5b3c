"""Which stored values become 0 and 1: given, of a window of CT, or found in a sample of the data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from torch import Tensor

from hardviews.errors import InputError
from hardviews.setup.look import some_pixels
from hardviews.views.pixels import Pixels
from hardviews.wording import several

# The values that become 0 and 1 if nobody says. A thousandth at either end is left to dead and hot pixels.
PERCENTILES = (0.1, 99.9)
# Names of a CT window → centre and width in Hounsfield units: "Windowing (CT)", radiopaedia.org/articles/windowing-ct.
WINDOWS = {
    "abdomen": (50, 400), "bone": (400, 1800), "brain": (40, 80), "liver": (30, 150), "lung": (-600, 1500),
    "mediastinum": (50, 350), "soft_tissue": (50, 400),
}  # fmt: skip
# The lowest value of a CT is that of air, -1000, or of what lies outside of the scanner, down to -3024; the highest
# is that of metal, often cut to 12 bits.
CT_LOWEST, CT_HIGHEST = (-3100.0, -500.0), 4100.0
SAID = 0.01  # a share of values that are cut and said


@dataclass(frozen=True)
class Limits:
    """How the values that become 0 and 1 are found.

    Args:
        numbers: low and high, or low and high of each channel; None where a sample decides.
        percentiles: of each image by itself.
        name: of the window they are of.
    """

    numbers: tuple[float, ...] | None = None
    percentiles: tuple[float, float] | None = None
    name: str = ""

    @classmethod
    def named(cls, given: Sequence[float] | str) -> "Limits":
        """By ``--value-range``; raises InputError for what it does not take."""
        if not isinstance(given, str):
            if len(given) < 2 or len(given) % 2:
                count = several(len(given), "number")
                raise InputError(f"value-range: {count} given; give LOW,HIGH, or a pair for each channel")
            for low, high in zip(given[::2], given[1::2], strict=True):
                if not low < high or not isfinite(high - low):
                    raise InputError(f"value-range: {low:g},{high:g}: give LOW,HIGH, with LOW below HIGH")
            return cls(tuple(map(float, given)))
        if given == "auto":
            return cls()
        if given in WINDOWS:
            centre, width = WINDOWS[given]
            return cls((centre - width / 2, centre + width / 2), name=given)
        found = re.fullmatch(r"percentile\((\d+\.?\d*), ?(\d+\.?\d*)\)", given)
        if found is None:
            raise InputError(
                f"value-range: {given!r} is none of LOW,HIGH (two numbers), auto, percentile(1,99), or a window of CT: "
                f"{', '.join(WINDOWS)}"
            )
        low, high = float(found[1]), float(found[2])
        if not 0 <= low < high <= 100:
            raise InputError(f"value-range: {given}: give two percentiles of 0 to 100, the lower first")
        return cls(percentiles=(low, high))

    @classmethod
    def usual(cls, form: Pixels) -> "Limits":
        """Where none are given: all levels of 8 bits, else as a sample shows."""
        return cls((0.0, 255.0)) if form.dtype == "uint8" else cls()

    def of(self, form: Pixels, images: Sequence[Tensor]) -> tuple[Pixels, str]:
        """The form with this range, and words for it; none for 0 to 255 of 8 bits.

        Args:
            form: whose range is that of its type.
            images: of a sample, as stored.
        """
        if self.name and form.dtype == "uint8":
            raise InputError(f"value-range: the {self.name} window is of Hounsfield units; these images have 8 bits")
        if self.percentiles is not None:
            words = f"each image's {self.percentiles[0]:g} and {self.percentiles[1]:g} percentiles become 0 to 1"
            return replace(form, percentiles=self.percentiles), words
        if self.numbers is None:
            low, high = sampled_range(images, each=not form.rgb and form.channels > 1)
            how = f"{PERCENTILES[0]:g} and {PERCENTILES[1]:g} percentiles"
        else:
            low, high = self.numbers[::2], self.numbers[1::2]
            how = f"the {self.name} window" if self.name else ""
        if len(low) not in (1, form.channels):
            channels = several(form.channels, "channel")
            raise InputError(f"value-range: {len(low)} pairs for {channels}; give one pair, or one for each channel")
        form = replace(form, low=low, high=high)
        cut = share_cut(images, form)
        words = f"{range_in_words(form, how)} become 0 to 1; values outside are cut"
        return form, "" if form.plain else words + (f" ({cut:.0%} of the sample)" if cut >= SAID else "")


def is_ct(form: Pixels, given: Sequence[float] | str | None) -> bool:
    """Whether values are Hounsfield units, by a window that is asked for, or by the range that a sample has."""
    if form.channels != 1 or form.dtype not in ("int16", "float32") or form.percentiles:
        return False
    low, high = form.low[0], form.high[0]
    return given in WINDOWS or (CT_LOWEST[0] <= low <= CT_LOWEST[1] and 0 < high <= CT_HIGHEST)


def range_in_words(form: Pixels, how: str = "") -> str:
    """The values that become 0 and 1, and how they were found."""
    pairs = [f"{low:g} to {high:g}" for low, high in zip(form.low, form.high, strict=True)]
    if len(pairs) == 1:
        return f"values {pairs[0]}{f' ({how})' * bool(how)}"
    return f"each channel's {how or 'values'}, {pairs[0]} of the first,"


def share_cut(images: Sequence[Tensor], form: Pixels) -> float:
    """The share of a sample's values that lie outside the range."""
    low, high = (np.array(limits) for limits in form.ranges)
    values = [some_pixels(image) for image in images]
    return float(np.mean([((some < low) | (some > high)).mean() for some in values]))


def sampled_range(images: Sequence[Tensor], each: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The ``PERCENTILES`` of images, of every channel or of all together.

    Raises:
        InputError: no value is finite.
    """
    values = np.concatenate([some_pixels(image) for image in images])  # [n, C]
    columns = values.T if each else values.reshape(1, -1)
    low, high = [], []
    for column in columns:
        finite = column[np.isfinite(column)]
        if not len(finite):
            raise InputError("value-range: auto needs values that are finite, and a channel of the sample has none")
        least, most = (float(f"{value:.6g}") for value in np.percentile(finite, PERCENTILES))
        low.append(least)
        high.append(most if most > least else least + 1)  # of a channel that never varies
    return tuple(low), tuple(high)
