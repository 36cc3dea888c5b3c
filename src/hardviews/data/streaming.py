"""Images that come one after the other, not by number: shards that are read from front to back.

Legend: P processes, each of which reads its own shards, shuffles what comes in a buffer, and has it decoded by its
workers. So the order depends on the seed, the epoch and P, not on the workers.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hardviews.data.cut_short import said_of
from hardviews.data.decode import Bounds, Faults, UnreadableImage, decode, printable
from hardviews.data.extensions import in_words
from hardviews.data.read_ahead import ahead
from hardviews.data.remote import PIPE, STREAMS, Remote, check
from hardviews.data.shards import expand
from hardviews.data.tar import LABEL, BrokenTarError, Tar, samples
from hardviews.errors import InputError, RunError
from hardviews.views.images import ImageBatch
from hardviews.views.streams import stream
from hardviews.wording import several

log = logging.getLogger(__name__)

SHUFFLE_BYTES = 256 << 20
AHEAD = 2  # batches read ahead, encoded
PLACES = 32  # bits of an image's number that are its place in its shard


class Encoded(NamedTuple):
    """An image as it comes: its bytes, or why it can't be read, and its number, made of shard and place in it."""

    data: bytes
    fault: str
    number: int = 0


@dataclass
class Stream:
    """Images in shards that can be read from front to back only. They have no labels that could be used.

    Args:
        name: what it is called in tables and messages.
        shards: how the shards are called in messages.
        images: in all of them, or as many as are to make an epoch.
        read: gives the images of a shard, in order; raises ``RunError`` where it can't be read.
    """

    name: str
    shards: list[str]
    images: int
    read: Callable[[int], Iterator[Encoded]]
    native_size: int | None = None

    def __len__(self) -> int:
        return self.images

    def path(self, index: int) -> str:
        return f"{self.shards[index >> PLACES]}#{index & ((1 << PLACES) - 1)}"

    def part(self, seed: int, epoch: int, process: int, processes: int) -> Generator[Encoded, None, None]:
        """A process's images of an epoch, unshuffled: every process gets as many shards as any other, in an order drawn
        for the epoch; those left over are read by all, and each takes every P-th image of them."""
        order: list[int] = torch.randperm(len(self.shards), generator=stream(seed, "shards", epoch)).tolist()
        whole = len(order) - len(order) % processes
        own, left_over = order[process:whole:processes], order[whole:]
        for shard in own + left_over:
            for place, image in enumerate(self.read(shard)):
                if shard not in left_over or place % processes == process:
                    yield image._replace(number=shard << PLACES | place)


class Batches:
    """The encoded batches of one process, from any step on.

    An epoch is ``len(source) // (batch_size · P)`` steps. A process whose part has fewer images than that, as shards
    differ, begins its part again; what is left of a larger part is left out. To begin in mid-epoch, the epoch is read
    again from its start up to there.

    Args:
        source: of the images.
        batch_size: images per step of this process.
        seed: of the run.
        process, processes: which of how many.
        shuffle_bytes: encoded images that are held to be shuffled, by this process.
    """

    def __init__(
        self, source: Stream, batch_size: int, seed: int, process: int, processes: int, shuffle_bytes: int
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.process, self.processes, self.shuffle_bytes = process, processes, shuffle_bytes

    def __call__(self, start_step: int) -> Iterator[list[Encoded]]:
        """Without end, read ahead by a thread."""
        return ahead(self._batches(start_step), AHEAD)

    def _batches(self, start_step: int) -> Iterator[list[Encoded]]:
        steps = len(self.source) // (self.batch_size * self.processes)
        first, within = divmod(start_step, steps)
        if within and self.process == 0:
            steps_again = several(within, "step")
            log.warning("%s: reading %s of the epoch again, to go on from there", self.source.name, steps_again)
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
    """Each image once, picked at random among those held, which are as many as ``limit`` bytes hold."""
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
    """Encoded batch → batch, what is unreadable, what is cut short. An unreadable image is replaced by the next in the
    batch that is readable."""

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
        return (ImageBatch.pack(images, [batch[row].number for row in rows]) if images else None), faults, cut


def is_stream(data: str) -> bool:
    """Whether ``data`` names what can be read from front to back only."""
    return data.startswith(STREAMS)


def tar_stream(data: str, images: int | None, allow_pipe: bool, image: str | None = None) -> Stream:
    """Tars from web servers or commands.

    Args:
        data: addresses, or ``pipe:`` and a command, with braces for several.
        images: of an epoch; None looks for them in ``sizes.json`` beside the shards.
        allow_pipe: whether commands may be run.
        image: the extension of the images; None for any known.

    Raises:
        InputError: a command that is not allowed, what is no address, or the number of images is unknown.
    """
    if data.startswith(PIPE) and not allow_pipe:
        raise InputError("data: pipe: runs a shell command; give --allow-pipe true if that is meant")
    addresses = expand(data)
    if not data.startswith(PIPE):
        for address in addresses:
            check(address)

    told: set[str] = set()

    def read(shard: int) -> Iterator[Encoded]:
        passed: Counter[str] = Counter()
        with closing(Remote(addresses[shard])) as remote:
            try:
                for found in samples(Tar(remote), image, LABEL, True, passed):
                    yield Encoded(found.data, found.fault)
                if passed.keys() - told:  # how many there are of a kind is known at the end alone
                    told.update(passed)
                    log.warning("%s: %s; those in other shards are not told of", addresses[shard], in_words(passed))
            except BrokenTarError as error:
                raise RunError(f"{printable(addresses[shard])}: {error}; put it right, and start again") from None

    return Stream(printable(data), addresses, images or _stated(data, addresses), read)


def _stated(data: str, addresses: list[str]) -> int:
    """How many images there are, by the ``sizes.json`` beside the shards: of every file its number of images."""
    try:
        if data.startswith(PIPE):
            raise ValueError
        folder = addresses[0].rpartition("/")[0]
        with closing(Remote(f"{folder}/sizes.json")) as remote:
            sizes = json.loads(remote.read(1 << 26))
        return sum(int(sizes[address.rpartition("/")[2]]) for address in addresses)
    except (RunError, ValueError, KeyError, TypeError):
        raise InputError(
            f"epoch-images: the number of images in {printable(data)} is not known (no sizes.json that lists all of "
            "them); give it"
        ) from None
