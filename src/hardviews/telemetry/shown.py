"""Pictures of images that are not 8-bit RGB: which channels are shown, scaled by the run's range of values."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.draw import Views
from hardviews.views.pixels import Pixels
from hardviews.views.plan import ViewPlan

Channels = tuple[int, int, int]  # shown as red, green and blue, counted from 0


def shown_channels(form: Pixels, asked: int | Sequence[int] | None = None) -> Channels:
    """The channels to show.

    Args:
        form: of the images.
        asked: one or three, counted from 1; by default RGB as it is, else the first three, or of fewer the first.

    Raises:
        InputError: the images have no such channel, or neither one nor three are asked for.
    """
    if asked is None:
        return (0, 1, 2) if form.channels >= 3 else (0, 0, 0)
    asked = [asked] if isinstance(asked, int) else asked
    if len(asked) not in (1, 3) or not all(1 <= channel <= form.channels for channel in asked):
        given = ",".join(map(str, asked))
        if form.channels == 1:
            raise InputError(f"show-channels: {given}: the images have one channel; leave the option out")
        raise InputError(f"show-channels: {given}: give one or three of the channels 1 to {form.channels}")
    first, second, third = [channel - 1 for channel in asked] * (3 // len(asked))
    return first, second, third


def picture(stored: Tensor, form: Pixels, channels: Channels) -> Tensor:
    """Channels of an image as a picture to look at.

    Args:
        stored: ``[C, h, w]``.
        form: of the image.
        channels: to show.

    Returns:
        uint8 ``[3, h, w]``.
    """
    if form.plain and form.channels == 3 and channels == (0, 1, 2):
        return stored
    return form.levels(stored, 0)[list(channels)].round_().byte()


def caption(form: Pixels, channels: Channels) -> str:
    """What is shown, in words; empty for RGB."""
    if form.rgb and form.plain and channels == (0, 1, 2):
        return ""
    grey = len(set(channels)) == 1
    some = f"channel {channels[0] + 1}" if grey else f"channels {', '.join(str(c + 1) for c in channels)}"
    of = "RGB" if form.rgb and channels == (0, 1, 2) else f"{some} of {form.channels}"
    low, high = form.ranges
    ranges = list(dict.fromkeys((low[c], high[c]) for c in channels))
    words = "; ".join(f"{least:g} to {most:g}" for least, most in ranges)
    return f"{of}, values {words}" + (" after each image's stretch" if form.percentiles else "")


def plan_shown(plan: ViewPlan, channels: Channels) -> ViewPlan:
    """The plan of the views of such pictures."""
    if plan.rgb and channels == (0, 1, 2):
        return plan
    mean, std = (tuple(values[c] for c in channels) for values in (plan.mean, plan.std))
    return plan.for_channels(mean, std)


def views_shown(views: Views, channels: Channels) -> Views:
    """The views of such pictures."""
    return views if views.tone is None else replace(views, tone=views.tone[:, :, list(channels)])


def as_values(rendered: Tensor, plan: ViewPlan) -> Tensor:
    """Rendered views ``[..., C, h, w]`` as values in 0..1, without the plan's normalisation."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (plan.mean, plan.std))
    return (rendered * std + mean).clamp(0, 1)
