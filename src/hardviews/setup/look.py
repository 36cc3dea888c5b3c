"""A sample of a data set's images, as they are stored: what channels and types there are, and which values."""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hardviews.data.reading.decode import Bounds, UnreadableImage, decode
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.launch.environment import is_started
from hardviews.views.pixels import Pixels
from hardviews.views.streams import stream
from hardviews.wording import several

# Of the images that are looked at: how many, or how few if these are of 8 bits, the bytes of all of them, and the side
# and pixels that each is shrunk to.
IMAGES, FEW, BYTES, SIDE, PIXELS = 64, 16, 1 << 28, 512, 1 << 20
# No further image is read after these seconds. Several processes don't watch the clock, as all must find the same.
SECONDS = 30.0
COUNTED = 1 << 16  # pixels of an image that percentiles and means are of, evenly spread

Kind = tuple[int, str]  # channels and type


@dataclass
class Look:
    """A sample of images.

    Args:
        images: ``[h, w, C]`` each, of any channels and types if they are as stored, then also with NaN and infinity.
        unreadable: how many can't be read.
    """

    images: list[Tensor] = field(default_factory=list)
    unreadable: int = 0

    @property
    def kinds(self) -> "Counter[Kind]":
        """How many images are of each kind."""
        return Counter(kind_of(image) for image in self.images)

    @property
    def count(self) -> str:
        """How many could be read, in words."""
        return f"{several(len(self.images), 'image')} looked at"

    def of_kind(self, kind: Kind) -> list[Tensor]:
        return [image for image in self.images if kind_of(image) == kind]


def kind_of(image: Tensor) -> Kind:
    return image.shape[-1], str(image.dtype).removeprefix("torch.")


def in_words(kind: Kind) -> str:
    return f"{several(kind[0], 'channel')} of {kind[1]}"


def look(source: ImageSource | Stream, form: Pixels | None = None, count: int = IMAGES, channels: int = 0) -> Look:
    """Reads some images: numbered ones that are spread over the set, of a stream the first.

    Args:
        source: of the images.
        form: what they are read as; by default as they are stored.
        count: how many.
        channels: without a form, those that are asked for, of which transparency may be one; 0 for any.

    Raises:
        RunError: a stream can't be read.
    """
    found, size, end = Look(), 0, time.monotonic() + SECONDS
    bounds = Bounds(SIDE, PIXELS, form, channels)
    with closing(_read(source, bounds, count)) as images:
        for image in images:
            if image is None:
                found.unreadable += 1
            else:
                found.images.append(image)
                size += image.numel() * image.element_size()
            if size > BYTES or (time.monotonic() > end and not is_started()):
                break
    return found


def _read(source: ImageSource | Stream, bounds: Bounds, count: int) -> Generator[Tensor | None, None, None]:
    """The images, None for those that can't be read."""
    if isinstance(source, Stream):
        with closing(source.part(0, 0, 0, 1)) as images:
            for image in islice(images, count):
                try:
                    yield None if image.fault else decode(image.data, bounds)
                except UnreadableImage:
                    yield None
        return
    spread = torch.linspace(0, len(source) - 1, min(count, len(source)), dtype=torch.float64).round().long()
    # In random order, so that those read in time are spread over the data too.
    for index in spread[torch.randperm(len(spread), generator=stream(0, "look"))].tolist():
        try:
            yield source.read(index, bounds)
        except UnreadableImage:
            yield None


def some_pixels(image: Tensor) -> Any:
    """At most ``COUNTED`` pixels of ``[h, w, C]``, evenly spread, as an array ``[n, C]``."""
    flat = image.reshape(-1, image.shape[-1]).numpy()
    return flat[:: -(-len(flat) // COUNTED)]
