"""What the numbers of a set's images are: channels, type, and the values that become 0 and 1."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hardviews.errors import InputError

PixelType = Literal["uint8", "uint16", "int16", "float32"]
PIXEL_TYPES: tuple[str, ...] = get_args(PixelType)
MOST_CHANNELS = 32
SPANS = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "int16": (-32768.0, 32767.0), "float32": (0.0, 1.0)}


@dataclass(frozen=True)
class Pixels:
    """What all images of a set have in common.

    By default images of any kind are converted to 8-bit RGB (``converts``). Others are read as they are stored, and
    must have these channels and this type.

    Args:
        channels: C, 1 to 32.
        dtype: of the stored numbers.
        low, high: values that become 0 and 1; what lies outside is cut to them. One number, or one per channel.
        rgb: whether the three channels are red, green and blue.
        percentiles: of an image's own values, 0 to 100, that are stretched to ``low`` and ``high`` while it is
            decoded; None for no stretch.
    """

    channels: int = 3
    dtype: PixelType = "uint8"
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (255.0,)
    rgb: bool = True
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise InputError(f"channels: {self.channels} must be 1 to {MOST_CHANNELS}")
        if self.dtype not in PIXEL_TYPES:
            raise InputError(f"pixel type {self.dtype!r} is none of {', '.join(PIXEL_TYPES)}")
        if self.rgb and self.channels != 3:
            raise InputError(f"RGB has three channels, not {self.channels}")
        for name, values in (("low", self.low), ("high", self.high)):
            if len(values) not in (1, self.channels):
                raise InputError(
                    f"value range: {len(values)} values for {name}; give one, or one for each of {self.channels} "
                    "channels"
                )
        if not all(map(isfinite, (*self.low, *self.high))):
            raise InputError(f"value range: {list(self.low)} to {list(self.high)} must be finite")
        if not all(low < high for low, high in zip(*self.ranges, strict=True)):
            raise InputError(f"value range: {list(self.low)} must be below {list(self.high)}")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"percentiles: {self.percentiles} must be an increasing range within 0 to 100")

    @classmethod
    def of(cls, image: Tensor, low: Sequence[float] | None = None, high: Sequence[float] | None = None) -> "Pixels":
        """The pixels of an image ``[h, w, C]``, which is not taken for RGB unless it is 8-bit of three channels. The
        range is by default that of its type, 0..1 for floats."""
        name = str(image.dtype).removeprefix("torch.")
        if name not in SPANS:
            raise InputError(f"pixel type {name!r} is none of {', '.join(PIXEL_TYPES)}")
        least, most = SPANS[name]
        channels, rgb = image.shape[-1], name == "uint8" and image.shape[-1] == 3
        return cls(channels, name, tuple(low or (least,)), tuple(high or (most,)), rgb)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Pixels":
        """Those of a run, from its ``config.yaml``; RGB for runs from before there were others."""
        given: dict[str, Any] = config.get("pixels") or {}
        numbers = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**(given | numbers))

    def saved(self) -> dict[str, Any]:
        """What ``config.yaml`` holds of them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def converts(self) -> bool:
        """Whether images of every kind are converted to 8-bit RGB."""
        return self.rgb and self.dtype == "uint8"

    @property
    def plain(self) -> bool:
        """Whether the stored numbers are levels 0 to 255 already."""
        return self.dtype == "uint8" and self.low == (0.0,) and self.high == (255.0,)

    @property
    def ranges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """``low`` and ``high`` of every channel."""
        every = (values * self.channels if len(values) == 1 else values for values in (self.low, self.high))
        low, high = every
        return low, high

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    @property
    def bytes(self) -> int:
        """Of one pixel, all channels."""
        return self.channels * self.torch_dtype.itemsize

    def levels(self, stored: Tensor, channel: int = -1) -> Tensor:
        """Stored numbers as float32 levels: ``low`` becomes 0, ``high`` becomes 255, what lies outside is cut.

        Args:
            stored: ``[..., C, ...]`` of ``dtype``, on any device.
            channel: the dimension of the channels.
        """
        return self.scale_(self.cut(stored, channel), channel)

    def cut(self, stored: Tensor, channel: int = -1) -> Tensor:
        """Stored numbers as float32, cut to the range of values. Weighted means of these can be scaled afterwards."""
        values = stored.to(torch.float32, copy=True)
        least, most = SPANS[self.dtype]
        if self.dtype != "float32" and max(self.low) <= least and min(self.high) >= most:
            return values
        if len(self.low) == len(self.high) == 1:
            return values.clamp_(self.low[0], self.high[0])
        low, high, _ = (x.view(self._shape(values, channel)) for x in _limits(*self.ranges, values.device))
        return torch.minimum(torch.maximum(values, low, out=values), high, out=values)

    def scale_(self, values: Tensor, channel: int = -1) -> Tensor:
        """Float numbers as levels, in place: ``low`` becomes 0 and ``high`` 255."""
        if self.plain:
            return values
        low, _, scale = (x.view(self._shape(values, channel)) for x in _limits(*self.ranges, values.device))
        return values.sub_(low).mul_(scale)

    def _shape(self, values: Tensor, channel: int) -> list[int]:
        return [-1 if d == channel % values.ndim else 1 for d in range(values.ndim)]


RGB = Pixels()


@lru_cache(maxsize=32)
def _limits(low: tuple[float, ...], high: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Low, high and 255 / (high - low) of every channel, float32 ``[C]``. Cached: copying would make a GPU wait."""
    least, most = (torch.tensor(values, dtype=torch.float64) for values in (low, high))
    with torch.inference_mode(False):
        return least.float().to(device), most.float().to(device), (255 / (most - least)).float().to(device)
