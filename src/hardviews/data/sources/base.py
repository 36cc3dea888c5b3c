"""What a data set is to the rest of the package: a numbered collection of images."""

import hashlib
from typing import Protocol

from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds
from hardviews.data.sources.streams import Stream

COMPARED = 1_000_000  # a fingerprint hashes about this many names of a larger data set


class ImageSource(Protocol):
    """N images by number. Labels are for evaluation; pretraining never looks at them.

    Args:
        name: for tables and messages.
        labels: int64 ``[N]``, or None.
        class_names: the name of every label, if known.
        native_size: the side of the images if they are small (at most 96), square and equal in size; else None.
    """

    name: str
    labels: Tensor | None
    class_names: list[str] | None
    native_size: int | None

    def __len__(self) -> int: ...

    def identity(self) -> str:
        """A text that changes when the images change, as far as names, sizes and times of files tell."""
        ...

    def path(self, index: int) -> str:
        """The name of image ``index`` in messages and tables."""
        ...

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        """Image ``index``, ``[h, w, C]`` in the form of the bounds, shrunk to them; raises ``UnreadableImage``."""
        ...


def why_unlabelled(source: ImageSource) -> str:
    """Why a source has no labels and what to do, as the end of a sentence."""
    reason: str = getattr(source, "unlabelled", "")
    return reason or "give class folders or a label column"


def passed_over(source: ImageSource) -> str:
    """Which data a source does not read although it looks like images, in words; empty if it reads all."""
    said: str = getattr(source, "passed_over", "")
    return said


def fingerprint(source: ImageSource | Stream) -> str:
    """The number of images and a digest of their names. It changes when images are added, removed or renamed.

    It ignores their content, except of Python objects (``content`` of ``DatasetSource``), which have no names of their
    own. Rows of tables and of other libraries' sets have numbers for names, so only their number counts. Of two million
    names or more, it takes every second one or fewer.
    """
    digest = hashlib.blake2b(digest_size=6)
    numbers = range(0, len(source), max(1, len(source) // COMPARED))
    names = source.shards if isinstance(source, Stream) else map(source.path, numbers)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    content = getattr(source, "content", None)
    digest.update(b"" if content is None else content().encode())
    return f"{len(source)} {digest.hexdigest()}"
