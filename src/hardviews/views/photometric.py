"""How a view's colours, blur and tones are drawn. Numbers only, no tensors."""

from dataclasses import dataclass

from hardviews.errors import InputError


@dataclass(frozen=True)
class Photometric:
    """The distribution of a view's colours, blur and solarization.

    Args:
        brightness, contrast, saturation: factors are uniform in ``[max(0, 1 - x), 1 + x]``, as in torchvision.
        hue: the shift is uniform in ``[-hue, hue]``, in turns of the colour circle, at most 0.5.
        jitter_p: probability that the four above are applied, in a random order.
        grey_p: probability of converting to grey, after the jitter.
        blur_p: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation, uniform, in pixels of the slot's full-size view.
        blur_kernel: width of the blur's kernel in pixels, odd; None for the odd number nearest a tenth of the view.
        solarize_p: probability of inverting values at or above ``solarize_threshold`` (0..1).
        gain: every channel is multiplied by a factor of its own, uniform in ``[max(0, 1 - x), 1 + x]``.
        offset: every channel is shifted by a number of its own, uniform in ``[-x, x]``, of values in 0..1.
        gamma: values are raised to a power that all channels share, log-uniform in ``[1 / (1 + x), 1 + x]``.
        tone_p: probability that gain, offset and gamma are applied, in this order, after everything above.
        drop_p: probability of each channel to be replaced by its mean; one channel always stays.

    Saturation, hue, grey and solarize are defined for RGB only; the others for any channels. Contrast blends RGB with
    its mean grey, and other channels each with its own mean.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 0.8
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize_p: float = 0.0
    solarize_threshold: float = 0.5
    gain: float = 0.0
    offset: float = 0.0
    gamma: float = 0.0
    tone_p: float = 0.8
    drop_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("jitter_p", "grey_p", "blur_p", "solarize_p", "tone_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a probability, 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.drop_p < 1:
            raise InputError(f"drop_p is a probability, 0 to below 1, not {self.drop_p}")
        for name in ("brightness", "contrast", "saturation", "gain", "offset", "gamma"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} can't be negative, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue is a fraction of a turn, 0 to 0.5, not {self.hue}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise InputError(f"blur_sigma is an increasing range of positive widths, not {self.blur_sigma}")
        if self.blur_kernel is not None and (self.blur_kernel < 1 or self.blur_kernel % 2 == 0):
            raise InputError(f"blur_kernel is an odd number of pixels, not {self.blur_kernel}")

    @property
    def of_rgb(self) -> list[str]:
        """The names of what it changes that is defined for RGB only."""
        return [name for name in ("saturation", "hue", "grey_p", "solarize_p") if getattr(self, name) > 0]

    @property
    def tones(self) -> bool:
        """Whether it changes channels one by one."""
        return self.drop_p > 0 or (self.tone_p > 0 and max(self.gain, self.offset, self.gamma) > 0)
