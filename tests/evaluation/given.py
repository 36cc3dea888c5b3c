"""Sources of stored pixels, for tests of what is not 8-bit RGB."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage
from hardviews.views.pixels import Pixels


class Stored:
    """Pictures ``[h, w, C]`` that are read in one form only, as a data set of files is."""

    name = "stored"
    class_names: list[str] | None = None
    native_size: int | None = None

    def __init__(self, pictures: Sequence[Tensor], form: Pixels, labels: Tensor | None = None) -> None:
        self.pictures, self.form, self.labels = pictures, form, labels

    def __len__(self) -> int:
        return len(self.pictures)

    def identity(self) -> str:
        return f"{len(self)} pictures"

    def path(self, index: int) -> str:
        return f"stored[{index}]"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        if bounds.form != self.form:
            raise UnreadableImage(self.path(index), f"{self.form.channels} channels of {self.form.dtype}; another form")
        return self.pictures[index]


def two_tones(count: int, form: Pixels, side: int = 32, channel: int = -1) -> Stored:
    """Noise whose label, 0 or 1, shows in the level of one channel."""
    low, high = (torch.tensor(values) for values in form.ranges)
    pictures = []
    for index in range(count):
        part = 0.2 * torch.rand(side, side, form.channels, generator=torch.Generator().manual_seed(index))
        part[..., channel] += 0.6 * (index % 2)
        pictures.append((low + (high - low) * part).to(form.torch_dtype))
    return Stored(pictures, form, torch.arange(count) % 2)
