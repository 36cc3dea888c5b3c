"""Which of their type's values images use, as they are stored, and what the run's range makes of them: values that are
cut, 12 bits in 16, no numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hardviews.data.reading.forms import Array, not_finite
from hardviews.doctor.checks import Check
from hardviews.setup.look import Kind, Look, in_words, some_pixels
from hardviews.views.pixels import SPANS, Pixels

WHOLE = ("uint8", "uint16", "int16")
UNUSED = 1 / 4  # of a type's values: images that use fewer lose two bits or more where all are mapped to 8
SAID = 0.01  # a share of all values that is said
# Shares that are too much: of values that are cut off at one end, besides those that have the lowest value of all, such
# as what lies outside a round field of view; and of numbers that are none.
CUT, NOT_NUMBERS = 0.05, 0.0
# A channel among others is dead if so many of its values are one, and saturated if so many are its highest, and so many
# times as many as in the middle one of all channels.
DEAD, SATURATED, TIMES = 0.99, 0.25, 4


@dataclass(frozen=True)
class Values:
    """Statistics of the stored values of images of one kind, without those that are no finite numbers.

    Args:
        least, most: of all.
        at_least, at_most: the shares of values that are these.
        below, above: the shares of the others that the run's range cuts.
        not_finite: the share of values that were NaN or infinite in the files.
        dead: channels, counted from 1, that have one value nearly everywhere while others do not.
        saturated: channels of which many more values are the channel's highest than of others.
    """

    least: float
    most: float
    at_least: float
    at_most: float
    below: float
    above: float
    not_finite: float
    dead: tuple[int, ...] = ()
    saturated: tuple[int, ...] = ()


def values_of(images: Sequence[Tensor], form: Pixels) -> Values:
    """Computes them of images ``[h, w, C]``, with the range of ``form`` if that is of their kind."""
    values = np.concatenate([some_pixels(image) for image in images])  # [n, C]
    finite = np.isfinite(values)
    numbers = values[finite] if finite.any() else np.zeros(1, values.dtype)
    least, most = float(numbers.min()), float(numbers.max())
    below = above = 0.0
    if (form.channels, form.dtype) == (values.shape[1], str(values.dtype)) and form.percentiles is None:
        low, high = (np.array(limits) for limits in form.ranges)
        below = float(((values < low) & (values > least) & finite).mean())
        above = float(((values > high) & (values < most) & finite).mean())
    at_least, at_most = (float((numbers == end).mean()) for end in (least, most))
    spoilt = sum(not_finite(image) for image in images) / sum(image.numel() for image in images)
    return Values(least, most, at_least, at_most, below, above, spoilt, *_odd_channels(values, finite))


def _odd_channels(values: Array, finite: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dead and the saturated channels of ``[n, C]``, counted from 1."""
    columns = [column[good] for column, good in zip(values.T, finite.T, strict=True)]
    constant = [not len(column) or float((column == np.median(column)).mean()) >= DEAD for column in columns]
    full = np.array([float((column == column.max()).mean()) if len(column) else 0.0 for column in columns])
    if len(columns) == 1 or all(constant):  # which is not one channel's fault
        return (), ()
    living = ~np.array(constant)
    bright = living & (full >= SATURATED) & (full > TIMES * np.quantile(full[living], 0.5, method="lower"))
    return tuple(k + 1 for k, odd in enumerate(constant) if odd), tuple(int(k) + 1 for k in np.flatnonzero(bright))


def check_values(seen: Look, form: Pixels) -> Iterator[Check]:
    """What the values of images are that are not of 8 bits, or have a range of their own; of others only what is wrong.

    Args:
        seen: images as they are stored.
        form: of the run.
    """
    kinds = seen.kinds
    wanted = (form.channels, form.dtype)
    said: list[str] = []
    remedies: list[str] = []
    figures: dict[str, Any] = {}
    # A run that converts all reads every kind, the most frequent first; others read their own alone.
    for kind, _ in [(wanted, 0)] if wanted in kinds and not form.converts else kinds.most_common():
        found = values_of(seen.of_kind(kind), form)
        says, wrong, what_to_try = _judged(kind, found, form)
        if wrong or not (kind[1] == "uint8" and form.plain):
            said.append("; ".join([says, *wrong]))
            remedies += what_to_try
            figures = figures or vars(found)
    if said:
        remedy = "; ".join(dict.fromkeys(remedies))
        yield Check("values", "warning" if remedy else "ok", "; ".join(said), remedy, figures)


def _judged(kind: Kind, found: Values, form: Pixels) -> tuple[str, list[str], list[str]]:
    """What the values of a kind are, what is wrong with them, and what to try."""
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
    for channels, what in (
        (found.dead, "one value nearly everywhere"),
        (found.saturated, f"the highest value at {SATURATED:.0%} of the pixels or more, unlike others"),
    ):
        if channels:
            many = len(channels) > 1
            named = f"channel{'s' * many} {', '.join(map(str, channels))} of {kind[0]}"
            wrong.append(f"{named} {'have' if many else 'has'} {what}")
            remedies.append("files without such channels, if they are faults of the sensor")
    if found.not_finite > NOT_NUMBERS:
        wrong.append(f"{max(found.not_finite, 1e-4):.2%} are no finite numbers")
        remedies.append("files without NaN and infinity, which become the lowest value of the range and its nearer end")
    return says, wrong, remedies
