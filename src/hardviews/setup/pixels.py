"""What a run's images are made of: channels, type and range of values, found once in a sample of the data and then kept
in the run's ``config.yaml``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardviews.console import say
from hardviews.data.sources import ImageSource
from hardviews.data.sources.dataset import DatasetSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup.look import FEW, Look, in_words, look, some_pixels
from hardviews.setup.value_range import Limits
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import MOST_CHANNELS, RGB, Pixels
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD
from hardviews.wording import several

USUAL = "values 0 to 255 become 0 to 1"
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
        if not 1 <= asked <= MOST_CHANNELS:
            raise InputError(f"channels: {asked} must be 1 to {MOST_CHANNELS}, or auto or rgb")
        return _as_stored(_asked_for(asked, seen, source), asked, limits)
    kinds, eight = seen.kinds, seen.kinds.keys() & EIGHT_BITS
    others = {kind: count for kind, count in kinds.items() if kind not in eight}
    if sum(kinds[kind] for kind in eight) < max(others.values(), default=0):
        if limits is None and isinstance(source, DatasetSource):
            _check_not_normalised(seen, source)
        return _as_stored(seen, None, limits)
    then = "become 8-bit RGB" + " if they are no arrays" * isinstance(source, DatasetSource)
    lines = [f"{in_words(kind)} ({n} of {seen.count}) {then}" for kind, n in others.items()]
    if limits is None:
        return RGB, lines
    form, said = limits.of(RGB, [image for kind in eight for image in seen.of_kind(kind)])
    return form, [*lines, f"8-bit RGB ({sum(kinds[kind] for kind in eight)} of {seen.count})", said or USUAL]


def _check_not_normalised(seen: Look, source: DatasetSource) -> None:
    """Raises InputError for RGB floats below 0 that Python objects hold: what a transform with Normalize leaves."""
    values = [image.numpy() for image in seen.of_kind((3, "float32"))]
    lowest = min((float(some[np.isfinite(some)].min(initial=0.0)) for some in values), default=0.0)
    if lowest < 0:
        raise InputError(
            f"{source.name}: floats of three channels from {lowest:.3g} on look normalised: leave Normalize out; if "
            "they are measured values, give channels 3 or a value-range"
        )


def _as_stored(seen: Look, channels: int | None, limits: Limits | None) -> tuple[Pixels, list[str]]:
    """The kind that most of a sample's images are of, not converted.

    Args:
        seen: the sample.
        channels: that they must have; None for any.
        limits: of their values; None for what is usual.
    """
    kinds = seen.kinds
    fitting = Counter({kind: n for kind, n in kinds.items() if channels in (None, kind[0])})
    if not fitting:
        there = ", ".join(f"{n} {'has' if n == 1 else 'have'} {in_words(kind)}" for kind, n in kinds.items())
        raise InputError(f"channels: none of {seen.count} has {channels} ({there}); give --channels auto, or theirs")
    kind, most = fitting.most_common(1)[0]
    form = replace(Pixels.of(seen.of_kind(kind)[0]), rgb=kind[0] == 3 and channels is None)
    form, said = (limits or Limits.usual(form)).of(form, seen.of_kind(kind))
    lines = [f"{in_words(kind)} ({most} of {seen.count})", said or USUAL]
    rest = ", ".join(f"{in_words(other)} ({n} of {seen.count})" for other, n in kinds.items() if other != kind)
    return form, [*lines, f"{rest}: not of that kind, and counted as unreadable"] if rest else lines


def _asked_for(channels: int, seen: Look, source: ImageSource | Stream) -> Look:
    """The sample for a number of channels. Arrays of floats from 0 to 1 that Python holds pass for 8 bits where nothing
    is asked for, and are read as floats here."""
    if not isinstance(source, DatasetSource) or (channels, "uint8") not in seen.kinds:
        return seen
    if look(source, Pixels(channels, rgb=False)).images:
        return seen
    floats = look(source, Pixels(channels, "float32", (0,), (1,), rgb=False))
    return floats if floats.images else seen


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
        say(f"pixels: {', '.join(said)}, measured on a sample after that")
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
