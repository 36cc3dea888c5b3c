"""What a run's images are made of: channels, type and range of values, found once in a sample of the data and then kept
in the run's ``config.yaml``."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardviews.console import say
from hardviews.data.sources import ImageSource
from hardviews.data.sources.dataset import DatasetSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError, unknown
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup.look import FEW, Look, in_words, look, some_pixels
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD
from hardviews.wording import several

# The values that become 0 and 1 if nobody says. A thousandth at either end is left to dead and hot pixels.
PERCENTILES = (0.1, 99.9)
# Names of a CT window → centre and width in Hounsfield units: "Windowing (CT)", radiopaedia.org/articles/windowing-ct.
WINDOWS = {
    "abdomen": (50, 400), "bone": (400, 1800), "brain": (40, 80), "liver": (30, 150), "lung": (-600, 1500),
    "mediastinum": (50, 350),
}  # fmt: skip
SAID = 0.01  # a share of values that are cut and said
EIGHT_BITS = {(1, "uint8"), (3, "uint8")}  # grey and RGB
FLATTEST = 1 / 255  # the least std that is measured, of values in 0..1: of a channel that never varies


def pixels_of(options: PretrainOptions) -> Pixels:
    """What the images of resolved options are."""
    return Pixels.from_config({"pixels": options.pixels})


def resolve_pixels(options: PretrainOptions, source: ImageSource | Stream) -> PretrainOptions:
    """The options with ``pixels``: those that are given, those of the run if it resumes, else what a sample shows.

    Raises:
        InputError: no image has the channels asked for, or the range is none.
    """
    if options.pixels is not None:
        return replace(options, pixels=pixels_of(options).saved())
    begun = _begun(options)
    if begun is not None:
        return replace(options, pixels=Pixels.from_config(begun).saved())
    form, lines = find_pixels(options, source)
    for line in lines:
        say(f"pixels: {line}")
    return replace(options, pixels=form.saved())


def _begun(options: PretrainOptions) -> dict[str, Any] | None:
    """The settings of the run in the folder, if there is one that resumes."""
    run = RunFolder(Path(options.out)) if options.out else None
    return run.config() if run and run.config_file.exists() else None


def find_pixels(options: PretrainOptions, source: ImageSource | Stream) -> tuple[Pixels, list[str]]:
    """What the images are, by the options and a sample of them, and lines that say so where they are not 8-bit RGB.

    Raises:
        InputError: as of ``resolve_pixels``.
    """
    asked = options.channels
    if asked == "auto" and isinstance(source, Stream):  # whose first images may not be like the rest
        asked = "rgb"
    limits = None if options.value_range is None else Limits.named(options.value_range)
    if asked == "rgb" and limits is None:
        return RGB, []
    if asked == "auto" and limits is None and not look(source, None, FEW).kinds.keys() - EIGHT_BITS:
        return RGB, []  # also where none can be read, which is said where training reads it
    seen = look(source, RGB if asked == "rgb" else None, channels=asked if isinstance(asked, int) else 0)
    if not seen.images:
        raise InputError(f"channels: none of {several(seen.unreadable, 'image')} could be read; see --doctor")
    if isinstance(asked, int):
        return _as_stored(_asked_for(asked, seen, source), asked, limits)
    kinds, eight = seen.kinds, seen.kinds.keys() & EIGHT_BITS
    others = {kind: count for kind, count in kinds.items() if kind not in eight}
    if sum(kinds[kind] for kind in eight) < max(others.values(), default=0):
        if limits is None and isinstance(source, DatasetSource):
            _check_not_normalised(seen, source)
        return _as_stored(seen, None, limits)
    then = "and become 8-bit RGB" + " if they are no arrays" * isinstance(source, DatasetSource)
    lines = [f"{n} of {seen.count} have {in_words(kind)}, {then}" for kind, n in others.items()]
    if limits is None:
        return RGB, lines
    form, said = limits.of(RGB, [image for kind in eight for image in seen.of_kind(kind)])
    return form, [*lines, f"8-bit RGB; {said or 'values 0 to 255 become 0 to 1'}"]


def _check_not_normalised(seen: Look, source: DatasetSource) -> None:
    """Raises InputError for RGB floats below 0 that Python objects hold: what a transform with Normalize leaves."""
    values = [image.numpy() for image in seen.of_kind((3, "float32"))]
    lowest = min((float(some[np.isfinite(some)].min(initial=0.0)) for some in values), default=0.0)
    if lowest < 0:
        raise InputError(
            f"{source.name}: floats of three channels from {lowest:.3g} on look normalised: leave Normalize out; if "
            "they are measured values, give channels 3 or a value-range"
        )


def _as_stored(seen: Look, channels: int | None, limits: "Limits | None") -> tuple[Pixels, list[str]]:
    """The kind that most of a sample's images are of, not converted.

    Args:
        seen: the sample.
        channels: that they must have; None for any.
        limits: of their values; None for what is usual.
    """
    kinds = seen.kinds
    fitting = Counter({kind: n for kind, n in kinds.items() if channels in (None, kind[0])})
    if not fitting:
        there = ", ".join(f"{n} have {in_words(kind)}" for kind, n in kinds.items())
        raise InputError(f"channels: none of {seen.count} has {channels}: {there}; give --channels auto, or theirs")
    kind, most = fitting.most_common(1)[0]
    form = replace(Pixels.of(seen.of_kind(kind)[0]), rgb=kind[0] == 3 and channels is None)
    form, said = (limits or Limits.usual(form)).of(form, seen.of_kind(kind))
    lines = [f"{most} of {seen.count} have {in_words(kind)}; {said or 'values 0 to 255 become 0 to 1'}"]
    rest = ", ".join(f"{n} have {in_words(other)}" for other, n in kinds.items() if other != kind)
    return form, [*lines, f"{rest}, which will count as unreadable"] if rest else lines


def _asked_for(channels: int, seen: Look, source: ImageSource | Stream) -> Look:
    """The sample for a number of channels. Arrays of floats from 0 to 1 that Python holds pass for 8 bits where nothing
    is asked for, and are read as floats here."""
    if not isinstance(source, DatasetSource) or (channels, "uint8") not in seen.kinds:
        return seen
    if look(source, Pixels(channels, rgb=False)).images:
        return seen
    floats = look(source, Pixels(channels, "float32", (0,), (1,), rgb=False))
    return floats if floats.images else seen


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
                raise InputError(f"value-range: {len(given)} numbers given; give LOW,HIGH, or a pair for each channel")
            return cls(tuple(map(float, given)))
        if given == "auto":
            return cls()
        if given in WINDOWS:
            centre, width = WINDOWS[given]
            return cls((centre - width / 2, centre + width / 2), name=given)
        found = re.fullmatch(r"percentile\(([\d.]+), ?([\d.]+)\)", given)
        if found is None:
            raise unknown("value-range", given, ["auto", "percentile(1,99)", "LOW,HIGH", *WINDOWS])
        return cls(percentiles=(float(found[1]), float(found[2])))

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
            how = f" ({PERCENTILES[0]:g} and {PERCENTILES[1]:g} percentiles)"
        else:
            low, high = self.numbers[::2], self.numbers[1::2]
            how = f" (the {self.name} window)" if self.name else ""
        form = replace(form, low=low, high=high)
        cut = share_cut(images, form)
        words = f"{range_in_words(form)}{how} become 0 to 1, and what lies outside is cut"
        return form, "" if form.plain else words + (f": {cut:.0%} of the sample" if cut >= SAID else "")


def range_in_words(form: Pixels) -> str:
    """The values that become 0 and 1."""
    pairs = [f"{low:g} to {high:g}" for low, high in zip(form.low, form.high, strict=True)]
    return f"values {pairs[0]}" if len(pairs) == 1 else f"values of each channel, {pairs[0]} of the first,"


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


def normalisation(
    options: PretrainOptions, known: Mapping[str, Any], source: ImageSource | Stream
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of every channel, of values in 0..1: as given, of the weights that the run starts from, ImageNet's
    for RGB, or measured. A run that resumes has measured them before.

    Args:
        options: with ``pixels``.
        known: what is known of the weights: ``mean`` and ``std``, and ``pixels`` of weights that are not for RGB.
        source: of the images.

    Raises:
        InputError: they are not one for each channel, or a std is not above 0.
    """
    form, begun = pixels_of(options), _begun(options)
    usual = (IMAGENET_MEAN, IMAGENET_STD) if form.rgb else ("auto", "auto")
    alike = Pixels.from_config(known).rgb == form.rgb and len(known.get("mean") or ()) == form.channels
    measured: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    found, said = [], []
    for place, name in enumerate(("mean", "std")):
        given: Any = getattr(options, name)
        if given is None:
            given = known[name] if alike and name in known else usual[place]
        if given == "auto":
            if begun is not None:
                given = begun[name]
            else:
                measured = measured or mean_and_std(source, form)
                given = measured[place]
                said.append(f"{name} {_listed(given)}")
        given = [given] if isinstance(given, int | float) else given
        if len(given) != form.channels:
            raise InputError(
                f"{name}: {several(len(given), 'number')} for {several(form.channels, 'channel')}; give one for each"
            )
        found.append(tuple(float(number) for number in given))
    if said:
        say(f"pixels: {' and '.join(said)}, of a sample of values in 0 to 1")
    if min(found[1]) <= 0:
        raise InputError(f"std: {list(found[1])} must be above 0")
    return found[0], found[1]


def mean_and_std(source: ImageSource | Stream, form: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of every channel of a sample, of values in 0..1, to four digits.

    Raises:
        InputError: no image of the sample can be read.
    """
    images = look(source, form).images
    if not images:
        raise InputError("mean: auto needs images, and none of the sample could be read; see --doctor")
    count, total, squares = 0, torch.zeros(form.channels).double(), torch.zeros(form.channels).double()
    for image in images:
        values = form.levels(torch.from_numpy(np.ascontiguousarray(some_pixels(image)))).double() / 255  # [n, C]
        count, total, squares = count + len(values), total + values.sum(0), squares + values.square().sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    four = [[float(f"{number:.4g}") for number in numbers] for numbers in (mean, std.clamp_min(FLATTEST))]
    return tuple(four[0]), tuple(four[1])


def _listed(numbers: Sequence[float]) -> str:
    shown = ", ".join(f"{number:.3g}" for number in numbers[:4])
    return shown + (", ..." if len(numbers) > 4 else "")
