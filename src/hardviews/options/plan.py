"""Arguments of every method's view plan (``--plan.X``), besides those of the method itself."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class TransformOptions:
    """An augmentation of one's own, among the arguments of a plan (docs/augmentations.md).

    Args:
        transform: package.module:name of a function or object that is called with one view, in the place of the plan's
            colours, blur and solarization; or one for every kind of view.
        transform_input: what it is given. crop: the view, cropped, resized and flipped; image: the whole image, which
            it crops and flips itself.
    """

    transform: str | list[str] | None = None
    transform_input: Literal["crop", "image"] | None = None


@dataclass
class ToneOptions:
    """What views change in their channels one by one, after all other colours; for RGB and for other channels
    (docs/channels.md). What is not given changes nothing.

    Args:
        gain: every channel is multiplied by a factor of its own, uniform in 1 - gain to 1 + gain.
        offset: every channel is shifted by a number of its own, uniform in -offset to offset, of values in 0..1.
        gamma: values are raised to a power that all channels share, log-uniform in 1 / (1 + gamma) to 1 + gamma.
        tone_p: probability that gain, offset and gamma are applied, in this order; by default 0.8.
        drop_p: probability of each channel to be replaced by its mean; one channel always stays.
    """

    gain: float | None = None
    offset: float | None = None
    gamma: float | None = None
    tone_p: float | None = None
    drop_p: float | None = None
