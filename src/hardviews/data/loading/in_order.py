"""Every image once, in order: for evaluation and embedding."""

import logging
from collections.abc import Callable, Iterator

from torch import Tensor
from torch.utils.data import Dataset

from hardviews.data.loading.in_memory import Decoded
from hardviews.data.loading.loader import Loaded
from hardviews.data.loading.workers import by_workers
from hardviews.data.reading.cut_short import said_of
from hardviews.data.reading.decode import (
    EMPTY,
    MAX_BATCH_BYTES,
    Bounds,
    Faults,
    UnreadableImage,
    bounds_for,
)
from hardviews.data.sources.base import ImageSource
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels
from hardviews.wording import several

log = logging.getLogger(__name__)

_told: set[str] = set()  # paths of images without their end that a warning has named


def in_order(
    source: ImageSource,
    batch_size: int,
    *,
    workers: int = 0,
    max_batch_bytes: int = MAX_BATCH_BYTES,
    unreadable: dict[str, str] | None = None,
    shown: Callable[[Tensor], Tensor] | None = None,
    process: int = 0,
    processes: int = 1,
    form: Pixels = RGB,
    form_shown: Pixels | None = None,
) -> Iterator[ImageBatch]:
    """Every readable image once, in order; look labels up by ``batch.index``, as unreadable images are left out.

    At the end a warning names images that are cut short, each of them once per process, and another counts the empty
    tiles, which are left out too.

    Args:
        source, workers, max_batch_bytes: as for ``Loader``.
        batch_size: images per batch; the last batch and those with unreadable images are smaller.
        unreadable: receives path → reason of the images left out.
        shown: transforms every image, ``[h, w, C]`` as decoded and at full size, for the batch. It runs where the
            image is decoded, one image at a time.
        process, processes: which of how many. Each gets whole consecutive batches; their numbers differ by at most one.
        form: of the pixels, as decoded.
        form_shown: of what ``shown`` returns, by default the same.
    """
    bounds = Bounds(form=form) if shown else bounds_for(min(batch_size, len(source)), 0, max_batch_bytes, form)
    parts = _Parts(Decoded(source, bounds), batch_size, shown, form_shown or form)
    own = range(process * len(parts) // processes, (process + 1) * len(parts) // processes)
    loaded = by_workers(parts, own, workers) if workers and len(own) > 1 else (parts[k] for k in own)
    all_cut: dict[str, str] = {}
    empty = 0
    for batch, faults, cut in loaded:
        empty += sum(reason == EMPTY for reason in faults.values())
        if unreadable is not None:
            unreadable.update({source.path(index): reason for index, reason in faults.items()})
        all_cut.update({source.path(index): said for index, said in cut.items()})
        if batch is not None:
            yield batch
    if empty:
        log.warning(
            "%s: %s empty and left out, of %d", source.name, several(empty, "tile is", "tiles are"), len(source)
        )
    new = sorted(all_cut.keys() - _told)
    if new:
        _told.update(new)
        said = several(len(new), "image lacks its end", "images lack their end")
        log.warning("%s: %s, such as %s (%s)", source.name, said, new[0], all_cut[new[0]])


class _Parts(Dataset[Loaded]):
    """Number k → batch k of all images in order, without the unreadable ones."""

    def __init__(
        self, images: Decoded, batch_size: int, shown: Callable[[Tensor], Tensor] | None, form: Pixels
    ) -> None:
        self.images, self.batch_size, self.shown, self.form = images, batch_size, shown, form

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, part: int) -> Loaded:
        index: list[int] = []
        images: list[Tensor] = []
        faults: Faults = {}
        cut: Faults = {}
        start = part * self.batch_size
        for wanted in range(start, min(start + self.batch_size, len(self.images))):
            try:
                image = self.images.read(wanted)
                images.append(self.shown(image) if self.shown else image)
                index.append(wanted)
                if said_of(image):
                    cut[wanted] = said_of(image)
            except UnreadableImage as error:
                faults[wanted] = error.reason
        return (ImageBatch.pack(images, index, self.form) if images else None), faults, cut
