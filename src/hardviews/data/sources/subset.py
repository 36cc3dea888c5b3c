"""Some images of a source, as a source."""

from torch import Tensor

from hardviews.data.reading.decode import UNBOUNDED, Bounds
from hardviews.data.sources.base import ImageSource, why_unlabelled


class Subset:
    """The images of a source in these rows, numbered from 0.

    Args:
        source: all images.
        rows: int64 ``[n]``.
    """

    def __init__(self, source: ImageSource, rows: Tensor) -> None:
        self.source, self.rows = source, rows
        self.name, self.class_names, self.native_size = source.name, source.class_names, source.native_size
        self.unlabelled = why_unlabelled(source)
        self.labels: Tensor | None = None if source.labels is None else source.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def identity(self) -> str:
        return f"{self.source.identity()} {self.rows.tolist()}"

    def path(self, index: int) -> str:
        return self.source.path(int(self.rows[index]))

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        return self.source.read(int(self.rows[index]), bounds)
