"""Images that arrive in order and have no random access: shards that are read from front to back."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hardviews.data.reading.decode import printable
from hardviews.data.reading.extensions import in_words
from hardviews.data.reading.remote import PIPE, Remote, check, is_remote
from hardviews.data.reading.tar import LABEL, BrokenTarError, Tar, samples
from hardviews.data.sources.shards import expand
from hardviews.errors import InputError, RunError
from hardviews.views.streams import stream

log = logging.getLogger(__name__)

PLACES = 32  # bits of an image's number that are its place in its shard


class Encoded(NamedTuple):
    """An image of a stream: its bytes, or why it can't be read, and its number, made of shard and place."""

    data: bytes
    fault: str
    number: int = 0


@dataclass
class Stream:
    """Images in shards that are read from front to back. Their labels are not used.

    Args:
        name: for tables and messages.
        shards: the names of the shards.
        images: in all shards, or per epoch.
        read: gives the images of a shard, in order; raises ``RunError`` if it can't be read.
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
        """A process's images of an epoch, unshuffled. Every process gets the same number of shards, in an order drawn
        for the epoch. All processes read the shards left over, and each takes every P-th image of them."""
        order: list[int] = torch.randperm(len(self.shards), generator=stream(seed, "shards", epoch)).tolist()
        whole = len(order) - len(order) % processes
        own, left_over = order[process:whole:processes], order[whole:]
        for shard in own + left_over:
            for place, image in enumerate(self.read(shard)):
                if shard not in left_over or place % processes == process:
                    yield image._replace(number=shard << PLACES | place)


def is_stream(data: str) -> bool:
    """Whether ``data`` is read from front to back: an address, a command, or a stream of Hugging Face's library."""
    return data.startswith("hf-stream:") or is_remote(data)


def tar_stream(data: str, images: int | None, allow_pipe: bool, image: str | None = None) -> Stream:
    """Tars from web servers, object stores or commands.

    Args:
        data: addresses, or ``pipe:`` and a command, with braces for several.
        images: per epoch; None looks for their number in ``sizes.json`` beside the shards.
        allow_pipe: whether commands may run.
        image: the extension of the images; None for any known one.

    Raises:
        InputError: a command that is not allowed, no valid address, or the number of images is unknown.
    """
    if data.startswith(PIPE) and not allow_pipe:
        raise InputError("data: pipe: runs a shell command; give --allow-pipe true if that is meant")
    addresses = expand(data)
    if not data.startswith(PIPE):
        for address in addresses:
            check(address)

    reported: set[str] = set()

    def read(shard: int) -> Iterator[Encoded]:
        passed: Counter[str] = Counter()
        with closing(Remote(addresses[shard])) as remote:
            try:
                for found in samples(Tar(remote), image, LABEL, True, passed):
                    yield Encoded(found.data, found.fault)
                if passed.keys() - reported:  # their numbers are known at the end
                    reported.update(passed)
                    log.warning("%s: %s; those in other shards are not reported", addresses[shard], in_words(passed))
            except BrokenTarError as error:
                raise RunError(f"{printable(addresses[shard])}: {error}; put it right, and start again") from None

    return Stream(printable(data), addresses, images or _stated(data, addresses), read)


def _stated(data: str, addresses: list[str]) -> int:
    """The number of images by ``sizes.json`` beside the shards, which maps file names to numbers."""
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
