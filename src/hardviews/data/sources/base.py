"""What a data set is to the rest of the package: a numbered collection of images."""

import hashlib
from typing import Protocol

from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds
from hardviews.data.sources.streams import Stream

COMPARED = 1_000_000  # a fingerprint hashes about this many names of a larger data set


class ImageSource(Protocol):
    """N pictures by number. Labels are for evaluation; pretraining never looks at them.

    Args:
        name: what it is called in tables and messages.
        labels: int64 ``[N]``, or None.
        class_names: the name of every label, where known.
        native_size: the side of the pictures where they are small (at most 96) and square, all alike; else None.
    """

    name: str
    labels: Tensor | None
    class_names: list[str] | None
    native_size: int | None

    def __len__(self) -> int: ...

    def identity(self) -> str:
        """What is another text once the pictures are others, as far as names, sizes and times of files tell."""
        ...

    def path(self, index: int) -> str:
        """How picture ``index`` is called in messages and tables."""
        ...

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Picture ``index``, uint8 ``[h, w, 3]``, shrunk to the bounds; raises ``UnreadableImage``."""
        ...


def why_unlabelled(source: ImageSource) -> str:
    """Why a source has no labels, and what to do, where it knows; for the end of a sentence."""
    reason: str = getattr(source, "unlabelled", "")
    return reason or "give class folders or a label column"


def passed_over(source: ImageSource) -> str:
    """What of its data a source does not read although it looks like pictures, in words; nothing where it reads all."""
    said: str = getattr(source, "passed_over", "")
    return said


def fingerprint(source: ImageSource | Stream) -> str:
    """The number of pictures and a digest of their names: it tells when pictures were added, taken away or renamed.

    Content is not looked at. Rows of tables and of other libraries' sets have numbers for names, so of them the number
    alone counts; and of two million names or more, every second or so is taken.
    """
    digest = hashlib.blake2b(digest_size=6)
    numbers = range(0, len(source), max(1, len(source) // COMPARED))
    names = source.shards if isinstance(source, Stream) else map(source.path, numbers)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return f"{len(source)} {digest.hexdigest()}"
