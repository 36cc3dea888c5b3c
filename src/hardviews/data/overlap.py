"""How many test images are training images too, by content.

Encoded bytes are compared; where a set has none (CIFAR's arrays), decoded pixels. A picture that was encoded again is
another one. The cost is bounded: at most ``TEST`` test images are compared with at most ``TRAINING`` training images,
drawn at random and always the same; content is read where sizes agree, up to ``BYTES`` of each set.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from hardviews.data.reading.decode import UnreadableImage
from hardviews.data.sources.base import ImageSource
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.hub import Hub
from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.shards import Shards
from hardviews.data.sources.table import Table
from hardviews.views.streams import stream

TEST, TRAINING = 10_000, 100_000  # images
BYTES = 256 << 20


class Overlap(NamedTuple):
    """What a comparison found.

    Args:
        shared: test images that are training images too, of those compared.
        compared: test images that were compared.
        exact: whether all test images were compared with all training images; else there may be more.
    """

    shared: int
    compared: int
    exact: bool


def overlap(train: ImageSource, test: ImageSource) -> Overlap:
    """Compares test images with training images."""
    if isinstance(train, Shapes) and isinstance(test, Shapes):
        return Overlap(0, len(test), exact=True)  # their splits share no image
    if _within(train, test):
        return Overlap(len(test), len(test), exact=True)
    asked, there = _sizes(test, train, TEST), _sizes(train, test, TRAINING)
    alike = set(there.values())
    candidates = [row for row, size in asked.items() if size in alike]
    read = _digests(test, train, candidates)
    alike = {asked[row] for row in read}
    rivals = [row for row, size in there.items() if size in alike]
    known = _digests(train, test, rivals)
    digests = set(known.values()) - {""}
    compared = len(asked) - len(candidates) + len(read)
    exact = (compared, len(there), len(known)) == (len(test), len(train), len(rivals))
    return Overlap(sum(digest in digests for digest in read.values()), compared, exact)


def _within(train: ImageSource, test: ImageSource) -> bool:
    """Whether test images are training images by their paths."""
    if isinstance(train, Folder) and isinstance(test, Folder):
        inner, outer = Path(test.folder).resolve(), Path(train.folder).resolve()
        hidden = any(part.startswith(".") for part in inner.parts[len(outer.parts) :])
        return inner.is_relative_to(outer) and not hidden
    files = (Shards, Table)
    if isinstance(train, files) and isinstance(test, files):
        inside, around = ({Path(file).resolve() for file in source.files} for source in (test, train))
        return inside <= around
    return False


def _sizes(source: ImageSource, other: ImageSource, most: int) -> dict[int, int]:
    """Of images drawn at random the bytes, or 0 where that is not known of both sources."""
    rows: list[int] = torch.randperm(len(source), generator=stream(0, "overlap"))[:most].tolist()
    sized = (Folder, Table, Shards)
    if isinstance(source, sized) and isinstance(other, sized):
        return {row: source.encoded_size(row) for row in rows}
    return dict.fromkeys(rows, 0)


def _digests(source: ImageSource, other: ImageSource, rows: Iterable[int]) -> dict[int, str]:
    """Of the first images of ``BYTES`` a digest of the content; an empty one where it can't be read."""
    found: dict[int, str] = {}
    left = BYTES
    for row in rows:
        if left <= 0:
            break
        try:
            content = _content(source, other, row)
        except UnreadableImage:
            content = b""
        left -= len(content)
        found[row] = hashlib.blake2b(content, digest_size=16).hexdigest() if content else ""
    return found


def _content(source: ImageSource, other: ImageSource, row: int) -> bytes:
    """Encoded, where both sources have that."""
    encoded = (Folder, Table, Shards, Hub)
    if isinstance(source, encoded) and isinstance(other, encoded):
        return source.encoded(row)
    pixels = source.read(row)
    return repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()
