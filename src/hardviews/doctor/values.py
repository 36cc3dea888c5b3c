"""Which of their type's values images use, as they are stored, and what the run's range makes of them: values that are
cut, 12 bits in 16, no numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hardviews.data.reading.forms import not_finite
from hardviews.doctor.checks import Check
from hardviews.setup.look import Look, in_words, some_pixels
from hardviews.views.pixels import SPANS, Pixels

WHOLE = ("uint8", "uint16", "int16")
UNUSED = 1 / 4  # of a type's values: images that use fewer lose two bits or more where all are mapped to 8
SAID = 0.01  # a share of all values that is said
# Shares that are too much: of values that are cut off at one end, besides those that have the lowest value of all, such
# as what lies outside a round field of view; and of numbers that are none.
CUT, NOT_NUMBERS = 0.05, 0.0


@dataclass(frozen=True)
class Values:
    """Statistics of the stored values of images of one kind.

    Args:
        least, most: of all.
        at_least, at_most: the shares of values that are these.
        below, above: the shares of the others that the run's range cuts.
        not_finite: the share of values that were NaN or infinite in the files.
    """

    least: float
    most: float
    at_least: float
    at_most: float
    below: float
    above: float
    not_finite: float


def values_of(images: Sequence[Tensor], form: Pixels) -> Values:
    """Computes them of images ``[h, w, C]``, with the range of ``form`` if that is of their kind."""
    values = np.concatenate([some_pixels(image) for image in images])  # [n, C]
    least, most = float(values.min()), float(values.max())
    below = above = 0.0
    if (form.channels, form.dtype) == (values.shape[1], str(values.dtype)) and form.percentiles is None:
        low, high = (np.array(limits) for limits in form.ranges)
        below = float(((values < low) & (values > least)).mean())
        above = float(((values > high) & (values < most)).mean())
    at_least, at_most = (float((values == end).mean()) for end in (least, most))
    spoilt = sum(not_finite(image) for image in images) / sum(image.numel() for image in images)
    return Values(least, most, at_least, at_most, below, above, spoilt)


def check_values(seen: Look, form: Pixels) -> Iterator[Check]:
    """What the values of images are that are not of 8 bits, or have a range of their own; nothing for others.

    Args:
        seen: images as they are stored.
        form: of the run.
    """
    kinds = seen.kinds
    if not kinds or (form.plain and all(kind[1] == "uint8" for kind in kinds)):
        return
    wanted = (form.channels, form.dtype)
    kind = wanted if wanted in kinds and not form.converts else kinds.most_common(1)[0][0]
    found = values_of(seen.of_kind(kind), form)
    says = f"{in_words(kind)}: values {found.least:g} to {found.most:g}"
    wrong, remedies = [], []
    if kind[1] in WHOLE:
        says += f" of {SPANS[kind[1]][0]:g} to {SPANS[kind[1]][1]:g}"
    part = (found.most - found.least) / (SPANS[kind[1]][1] - SPANS[kind[1]][0])
    if form.converts and kind[1] in WHOLE[1:] and part <= UNUSED:
        wrong.append(f"8-bit RGB keeps {max(round(256 * part), 1)} levels of them")
        remedies.append("--channels auto, which reads what is stored (12 bits often lie in 16)")
    for share, end, value in ((found.at_least, "lowest", found.least), (found.at_most, "highest", found.most)):
        if share >= SAID:
            says += f"; {share:.0%} have the {end} value, {value:g}"
    for share, side in ((found.below, "below"), (found.above, "above")):
        if share > CUT:
            wrong.append(f"{share:.0%} lie {side} the range that is shown to the network, and are cut")
            remedies.append("a wider --value-range")
    if found.not_finite > NOT_NUMBERS:
        wrong.append(f"{max(found.not_finite, 1e-4):.2%} are no finite numbers")
        remedies.append("files without NaN and infinity, which become the lowest value of the range and its nearer end")
    verdict = "warning" if wrong else "ok"
    remedy = "; ".join(dict.fromkeys(remedies))
    yield Check("values", verdict, "; ".join([says, *wrong]), remedy, vars(found))  # type: ignore[arg-type]
