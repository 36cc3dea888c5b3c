"""Images by number: decoded when asked for, or all decoded once and held on the training device."""

from typing import Literal

import torch
from torch import Tensor

from hardviews.console import progress_bars
from hardviews.data.reading.cut_short import said_of
from hardviews.data.reading.decode import Bounds, Faults, UnreadableImage
from hardviews.data.sources.base import ImageSource
from hardviews.launch.environment import rank
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels

# By default, small images of up to this many decoded bytes in all are held, on the training device.
RESIDENT_BYTES = 512 << 20


def is_held(source: ImageSource, in_memory: bool | Literal["auto"], form: Pixels | None = RGB) -> bool:
    """Whether to decode all images beforehand: on request, or because they are few and small."""
    side = source.native_size or 0
    size = len(source) * side * side * (form or RGB).bytes
    return in_memory is True or (in_memory == "auto" and 0 < size <= RESIDENT_BYTES)


class Decoded:
    """Images that are decoded when asked for."""

    def __init__(self, source: ImageSource, bounds: Bounds) -> None:
        self.source, self.bounds = source, bounds

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Tensor:
        """``[h, w, C]`` of the bounds' form, or ``UnreadableImage``."""
        return self.source.read(index, self.bounds)


class Held:
    """Decoded images of one form in memory: ``[N, h, w, C]``, or where sizes differ a list of ``[h, w, C]``. ``faults``
    are unreadable; ``cut_short`` lack their end."""

    def __init__(self, pixels: Tensor | list[Tensor], faults: Faults, cut_short: Faults, form: Pixels = RGB) -> None:
        self.pixels, self.faults, self.cut_short, self.form = pixels, faults, cut_short, form

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Tensor:
        if index in self.faults:
            raise UnreadableImage(str(index), self.faults[index])
        return self.pixels[index]

    def batch(self, index: Tensor) -> ImageBatch:
        """Readable images, gathered on their device. The CPU does not wait for the GPU."""
        if isinstance(self.pixels, list):
            return ImageBatch.pack([self.pixels[row] for row in index.tolist()], index, self.form)
        rows = index.to(self.pixels.device, non_blocking=True)
        size = torch.tensor(self.pixels.shape[1:3]).repeat(len(index), 1)
        pixels = self.pixels.view(torch.int16) if self.pixels.dtype == torch.uint16 else self.pixels  # see `gathered`
        chosen = pixels.index_select(0, rows).flatten().view(self.pixels.dtype)
        return ImageBatch(chosen, size, index, self.form)


def held(source: ImageSource, bounds: Bounds, must: bool, device: torch.device) -> Held | None:
    """All images decoded, on the device if they fit ``RESIDENT_BYTES``.

    None if they are not all of the native size, unless they ``must`` be held.
    """
    n = len(source)
    pixels: Tensor | list[Tensor] | None = None
    faults: Faults = {}
    cut_short: Faults = {}
    with progress_bars(rank() == 0) as start:
        done = start(f"reading {source.name}", n)
        for index in range(n):
            done(1)
            try:
                image = source.read(index, bounds)
            except UnreadableImage as error:
                faults[index] = error.reason
                continue
            if said_of(image):
                cut_short[index] = said_of(image)
            if not must and image.shape[:2] != (source.native_size,) * 2:
                return None
            if pixels is None:
                pixels = image.new_zeros(n, *image.shape)
            if isinstance(pixels, Tensor) and image.shape != pixels.shape[1:]:
                pixels = list(pixels.unbind())
            pixels[index] = image
    if pixels is None:
        return None
    if sum(image.numel() * image.element_size() for image in pixels) <= RESIDENT_BYTES:
        pixels = [image.to(device) for image in pixels] if isinstance(pixels, list) else pixels.to(device)
    return Held(pixels, faults, cut_short, bounds.form or RGB)
