"""A sample of images, spread evenly over the data: which decode, and which don't."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hardviews.data.reading.decode import EMPTY, Bounds, UnreadableImage, decode
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.streams import stream


@dataclass
class DecodedSample:
    """Pictures as training decodes them.

    Args:
        pictures: ``[h, w, C]`` each, of one type.
        unreadable: path → why, of those that don't decode.
        seconds: of reading and decoding all of them in one process.
        form: channels, type and range of values; None if pictures were read whatever they are.
        empty: tiles of scenes that show nothing, and are none of the pictures.
    """

    pictures: list[Tensor] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    form: Pixels | None = RGB
    empty: int = 0

    def __len__(self) -> int:
        return len(self.pictures) + len(self.unreadable)

    def mean_bytes(self) -> int:
        """Of a decoded picture."""
        return sum(picture.nbytes for picture in self.pictures) // max(len(self.pictures), 1)

    def batch(self, images: int) -> ImageBatch:
        """A batch of this many images; a smaller sample is repeated."""
        return ImageBatch.pack([self.pictures[row % len(self.pictures)] for row in range(images)], form=self.form)


def sampled(source: ImageSource | Stream, bounds: Bounds, count: int, seed: int, seconds: float) -> DecodedSample:
    """Decodes some pictures: of numbered ones at equal distances, of a stream the first.

    Args:
        source: of the images.
        bounds: what they are shrunk to, and which pixels they have.
        count: how many.
        seed: of the order of a stream's shards.
        seconds: no further picture is read after this time.

    Raises:
        RunError: a stream can't be read.
    """
    sample, begun = DecodedSample(form=bounds.form), time.perf_counter()
    with closing(_read(source, bounds, count, seed)) as found:
        for picture in found:
            if isinstance(picture, UnreadableImage) and picture.reason == EMPTY:
                sample.empty += 1
            elif isinstance(picture, UnreadableImage):
                sample.unreadable[picture.path] = picture.reason
            else:
                sample.pictures.append(picture)
            sample.seconds = time.perf_counter() - begun
            if sample.seconds > seconds:
                break
    return sample


def _read(
    source: ImageSource | Stream, bounds: Bounds, count: int, seed: int
) -> Generator[Tensor | UnreadableImage, None, None]:
    if isinstance(source, Stream):
        with closing(source.part(seed, 0, 0, 1)) as images:
            for image in islice(images, count):
                path = source.path(image.number)
                yield UnreadableImage(path, image.fault) if image.fault else _tried(decode, image.data, bounds, path)
        return
    spread = torch.linspace(0, len(source) - 1, min(count, len(source)), dtype=torch.float64).round().long()
    # In random order, so that the pictures read in time are spread over the data too.
    for index in spread[torch.randperm(len(spread), generator=stream(seed, "sample"))].tolist():
        yield _tried(source.read, index, bounds)


def _tried(read: Callable[..., Tensor], *arguments: Any) -> Tensor | UnreadableImage:
    try:
        return read(*arguments)
    except UnreadableImage as error:
        return error
