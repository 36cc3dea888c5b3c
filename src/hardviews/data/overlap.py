"""How many test images are training images too, by content.

It compares encoded bytes, or decoded pixels if a set has no encoded bytes (CIFAR's arrays). An image that was encoded
again counts as another one. The cost is bounded: it compares at most ``TEST`` test images with at most ``TRAINING``
training images, the same random ones each time, and reads content only where sizes agree, up to ``BYTES`` per set.
"""

import hashlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from hardviews.console import progress_bars
from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources.base import ImageSource
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.hub import Hub
from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.shards import Shards
from hardviews.data.sources.subset import Subset
from hardviews.data.sources.table import Table
from hardviews.launch.environment import rank
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.streams import stream

TEST, TRAINING = 10_000, 100_000  # images
BYTES = 256 << 20


class Overlap(NamedTuple):
    """What a comparison found.

    Args:
        shared: test images that are training images too, among those compared.
        compared: test images that were compared.
        exact: whether all test images were compared with all training images. If not, there may be more.
    """

    shared: int
    compared: int
    exact: bool


def overlap(train: ImageSource, test: ImageSource, form: Pixels = RGB) -> Overlap:
    """Compares test images with training images.

    Args:
        train, test: may be subsets, of one source too.
        form: of the pixels, where these are compared.
    """
    if isinstance(train, Shapes) and isinstance(test, Shapes):
        return Overlap(0, len(test), exact=True)  # their splits share no image
    if _within(train, test):
        return Overlap(len(test), len(test), exact=True)
    asked, there = _sizes(test, train, TEST), _sizes(train, test, TRAINING)
    alike = set(there.values())
    candidates = [row for row, size in asked.items() if size in alike]
    read = _digests(test, train, candidates, form)
    alike = {asked[row] for row in read}
    rivals = [row for row, size in there.items() if size in alike]
    known = _digests(train, test, rivals, form)
    digests = set(known.values()) - {""}
    compared = len(asked) - len(candidates) + len(read)
    exact = (compared, len(there), len(known)) == (len(test), len(train), len(rivals))
    return Overlap(sum(digest in digests for digest in read.values()), compared, exact)


def repeated(source: ImageSource, form: Pixels = RGB) -> Overlap:
    """Compares the images of a set with one another: ``shared`` of them are there more than once."""
    if isinstance(_whole(source), Shapes):
        return Overlap(0, len(source), exact=True)
    sizes = _sizes(source, source, TEST)
    counts = Counter(sizes.values())
    candidates = [row for row, size in sizes.items() if counts[size] > 1]
    read = _digests(source, source, candidates, form)
    alike = Counter(digest for digest in read.values() if digest)
    compared = len(sizes) - len(candidates) + len(read)
    return Overlap(sum(count for count in alike.values() if count > 1), compared, compared == len(source))


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
    """The size in bytes of random images, or 0 if the sizes of either source are unknown."""
    rows: list[int] = torch.randperm(len(source), generator=stream(0, "overlap"))[:most].tolist()
    sized = (Folder, Table, Shards)
    if not isinstance(_whole(other), sized):
        return dict.fromkeys(rows, 0)
    sizes = {}
    for row in rows:
        whole, inner = _place(source, row)
        sizes[row] = whole.encoded_size(inner) if isinstance(whole, sized) else 0
    return sizes


def _digests(source: ImageSource, other: ImageSource, rows: Collection[int], form: Pixels) -> dict[int, str]:
    """Digests of the content of the first images, ``BYTES`` in all; an empty digest if one can't be read."""
    found: dict[int, str] = {}
    left = BYTES
    with progress_bars(rank() == 0 and len(rows) > 0) as start:
        done = start(f"comparing {source.name}", len(rows))
        for row in rows:
            if left <= 0:
                break
            try:
                content = _content(source, other, row, form)
            except UnreadableImage:
                content = b""
            left -= len(content)
            found[row] = hashlib.blake2b(content, digest_size=16).hexdigest() if content else ""
            done(1)
    return found


def _content(source: ImageSource, other: ImageSource, row: int, form: Pixels) -> bytes:
    """Encoded, if both sources have that; else the pixels."""
    encoded = (Folder, Table, Shards, Hub)
    whole, inner = _place(source, row)
    if isinstance(whole, encoded) and isinstance(_whole(other), encoded):
        return whole.encoded(inner)
    pixels = source.read(row, Bounds(form=form))
    return repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()


def _whole(source: ImageSource) -> ImageSource:
    """What a subset is of."""
    return _whole(source.source) if isinstance(source, Subset) else source


def _place(source: ImageSource, row: int) -> tuple[ImageSource, int]:
    """What a subset is of, and the number of an image there."""
    return _place(source.source, int(source.rows[row])) if isinstance(source, Subset) else (source, row)
