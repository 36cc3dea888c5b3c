"""Batches of a stream, in an order that can be resumed.

Each of P processes reads its own shards, shuffles the images in a buffer, and lets its workers decode them. The order
depends on the seed, the epoch and P, not on the number of workers.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hardviews.data.loading.read_ahead import ahead
from hardviews.data.reading.cut_short import said_of
from hardviews.data.reading.decode import Bounds, Faults, UnreadableImage, decode
from hardviews.data.sources.streams import Encoded, Stream
from hardviews.errors import RunError
from hardviews.views.images import ImageBatch
from hardviews.views.streams import stream
from hardviews.wording import several

log = logging.getLogger(__name__)

SHUFFLE_BYTES = 256 << 20
AHEAD = 2  # batches read ahead, encoded


class Batches:
    """The encoded batches of one process, from any step on.

    An epoch has ``len(source) // (batch_size · P)`` steps. Shards may differ in size: a process with too few images
    begins its part again, and one with too many leaves some out. To start in mid-epoch, it reads the epoch from its
    start up to that step.

    Args:
        source: the images.
        batch_size: images per step of this process.
        seed: of the run.
        process, processes: which of how many.
        shuffle_bytes: size of this process's shuffle buffer, in bytes of encoded images.
    """

    def __init__(
        self, source: Stream, batch_size: int, seed: int, process: int, processes: int, shuffle_bytes: int
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.process, self.processes, self.shuffle_bytes = process, processes, shuffle_bytes

    def __call__(self, start_step: int) -> Iterator[list[Encoded]]:
        """Endless batches, read ahead by a thread."""
        return ahead(self._batches(start_step), AHEAD)

    def _batches(self, start_step: int) -> Iterator[list[Encoded]]:
        steps = len(self.source) // (self.batch_size * self.processes)
        first, within = divmod(start_step, steps)
        if within and self.process == 0:
            steps_again = several(within, "step")
            log.warning("%s: reading %s of the epoch again, to continue from there", self.source.name, steps_again)
        for epoch in count(first):
            with closing(self._epoch(epoch)) as images:
                for step in range(steps):
                    batch = [next(images) for _ in range(self.batch_size)]
                    if epoch > first or step >= within:
                        yield batch

    def _epoch(self, epoch: int) -> Generator[Encoded, None, None]:
        for again in count():
            generator = stream(self.seed, "shuffle", epoch, self.process, again)
            part = self.source.part(self.seed, epoch, self.process, self.processes)
            image = None
            for image in shuffled(part, self.shuffle_bytes, generator):
                yield image
            if image is None:
                raise RunError(f"{self.source.name}: no image in {several(len(self.source.shards), 'shard')}")


def shuffled(images: Iterator[Encoded], limit: int, generator: torch.Generator) -> Iterator[Encoded]:
    """Each image once, picked at random from a buffer of ``limit`` bytes."""
    held: list[Encoded] = []
    size = 0
    for image in images:
        held.append(image)
        size += len(image.data)
        while size > limit:
            yield (image := _picked(held, generator))
            size -= len(image.data)
    while held:
        yield _picked(held, generator)


def _picked(held: list[Encoded], generator: torch.Generator) -> Encoded:
    place = int(torch.randint(len(held), (), generator=generator))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()


class Decoding(Dataset[tuple[ImageBatch | None, Faults, Faults]]):
    """Encoded batch → batch, unreadable images, images that are cut short. The next readable image of the batch
    replaces an unreadable one."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def __getitem__(self, batch: list[Encoded]) -> tuple[ImageBatch | None, Faults, Faults]:
        read: list[Tensor | None] = []
        faults: Faults = {}
        cut: Faults = {}
        for image in batch:
            try:
                if image.fault:
                    raise UnreadableImage("", image.fault)
                picture = decode(image.data, self.bounds, "")
                read.append(picture)
                if said_of(picture):
                    cut[image.number] = said_of(picture)
            except UnreadableImage as error:
                faults[image.number] = error.reason
                read.append(None)
        rows = [
            next((k % len(read) for k in range(row, row + len(read)) if read[k % len(read)] is not None), -1)
            for row in range(len(read))
        ]
        images = [found for row in rows if (found := read[row]) is not None]
        numbers = [batch[row].number for row in rows]
        return (ImageBatch.pack(images, numbers, self.bounds.form) if images else None), faults, cut
