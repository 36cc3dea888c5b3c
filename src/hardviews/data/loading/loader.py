"""Training batches of decoded images. Their order depends on the seed alone; workers draw no random numbers."""

import logging
from collections.abc import Callable, Generator, Iterator
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hardviews.data.loading.in_memory import Decoded, Held, held, is_held
from hardviews.data.loading.stream_batches import SHUFFLE_BYTES, Batches, Decoding
from hardviews.data.loading.workers import by_workers, until_failure
from hardviews.data.reading.cut_short import said_of
from hardviews.data.reading.decode import (
    EMPTY,
    MAX_BATCH_BYTES,
    Faults,
    UnreadableImage,
    bounds_for,
    printable,
)
from hardviews.data.sources.base import ImageSource, passed_over
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError, RunError
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.streams import stream
from hardviews.wording import several

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
TRIES = 20  # images tried as a replacement of an unreadable one
EMPTY_TRIES = 1000  # the same of an empty tile of a scene, of which there may be many

Loaded = tuple[ImageBatch | None, Faults, Faults]  # unreadable images; images of the batch that are cut short


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of 0..n-1, int64 ``[n]``."""
    return torch.randperm(n, generator=stream(seed, "order", epoch))


def steps_per_epoch(source: ImageSource | Stream, batch_size: int) -> int:
    """The number of whole batches, of all processes together, in the data.

    Raises:
        InputError: the data has not one batch.
    """
    if batch_size > len(source):
        passed = "" if isinstance(source, Stream) else passed_over(source)
        raise InputError(
            f"a batch of {several(batch_size, 'image')} is larger than the data: {source.name} has {len(source)}; "
            f"give a --batch-size of {len(source)} or less{passed and f'; {passed}'}"
        )
    return len(source) // batch_size


class Loader:
    """Endless training batches of one process, from any step on.

    The global batch of step s is rows ``[s·G, (s + 1)·G)`` of the order of its epoch, G = ``batch_size · processes``;
    process p gets the p-th part. An epoch drops its last images, fewer than G. So the images of a step depend on the
    seed, the step and G, not on the number of processes or workers.

    Another image replaces an unreadable one, chosen by (seed, step, row). ``unreadable`` maps the paths that this
    process has found unreadable to reasons. ``cut_short`` does so for images that are used although their end is
    missing. Empty tiles of scenes are replaced too, and are no fault: ``empty`` has their numbers, and the log tells of
    the first, the tenth, the hundredth and so on.

    The order of streams (``stream_batches.py``) depends on the number of processes too.

    Args:
        source: the images.
        batch_size: images per step of this process, over all micro-batches.
        seed: of the run.
        process, processes: which of how many.
        workers: processes that decode; 0 decodes here.
        decode_size: pixels of the shorter side to which larger images are shrunk; 0 means ``DECODE_SIZE``.
        max_batch_bytes: limit on the decoded pixels of a batch; every image may take an equal share. A worker holds
            up to two batches ahead.
        tolerance: the fraction of the images that may be unreadable.
        in_memory: decode all images once and hold them. ``auto`` does so for small images of one size, up to
            ``RESIDENT_BYTES`` in all.
        pin_memory: put the batches of workers in pinned memory.
        device: for small sets that are held in memory.
        shuffle_bytes: size of the shuffle buffer of a stream.
        form: channels, type and range of values of the images.

    Raises:
        InputError: the batch is larger than the data, or ``in_memory=True`` and the images differ in size.
        RunError: (also while iterating) more than ``tolerance`` of the images are unreadable, or a worker died.
    """

    def __init__(
        self,
        source: ImageSource | Stream,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        decode_size: int = 0,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        tolerance: float = 0.01,
        in_memory: bool | Literal["auto"] = "auto",
        pin_memory: bool = False,
        device: torch.device = CPU,
        shuffle_bytes: int = SHUFFLE_BYTES,
        form: Pixels = RGB,
    ) -> None:
        whole = batch_size * processes
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, not {batch_size}")
        self.source, self.batch_size, self.workers = source, batch_size, workers
        self.tolerance, self.pin_memory = tolerance, pin_memory
        self.steps_per_epoch = steps_per_epoch(source, whole)
        self.unreadable: dict[str, str] = {}
        self.cut_short: dict[str, str] = {}
        self.empty: set[int] = set()
        bounds = bounds_for(batch_size, decode_size, max_batch_bytes, form)
        self.bounds = bounds
        self._faults: Faults = {}
        self._images: Decoded | Held | None = None
        self._keys: Callable[[int], Iterator[Any]] = count  # `_steps` makes a batch of each
        self._steps: Dataset[Loaded]
        if isinstance(source, Stream):
            if in_memory is True:
                raise InputError(f"{source.name}: a stream can't be held in memory")
            self._keys = Batches(source, batch_size, seed, process, processes, shuffle_bytes)
            self._steps = Decoding(bounds)
            return
        self._images = Decoded(source, bounds)
        if is_held(source, in_memory, bounds.form):
            self._images = held(source, bounds, in_memory is True, device) or self._images
        if isinstance(self._images, Held):
            self._note(self._images.cut_short)
        self._steps = _Steps(self._images, batch_size, seed, process, processes, form)

    def batches(self, start_step: int = 0) -> Iterator[ImageBatch]:
        """The batches of steps ``start_step``, ``start_step + 1``, ... without end."""
        steps: Iterator[Loaded]
        failed: list[RunError] = []
        keys = until_failure(self._keys(start_step), failed)
        if self.workers == 0 or isinstance(self._images, Held):
            steps = (self._steps[key] for key in keys)
        else:
            steps = by_workers(self._steps, keys, self.workers, self.pin_memory)
        for batch, faults, cut in steps:
            self._report(faults)
            self._note(cut)
            if batch is None:
                index, reason = next(iter(faults.items()))
                what = f"{TRIES} images in a row are unreadable"
                what = f"{EMPTY_TRIES} tiles in a row are empty" if reason == EMPTY else what
                raise RunError(f"{self.source.name}: {what}, among them {printable(self.source.path(index))}")
            yield batch
        raise failed[0]  # after all earlier batches; the keys only end by a failure

    def _note(self, cut: Faults) -> None:
        self.cut_short.update({self.source.path(index): said for index, said in cut.items()})

    def _note_empty(self, tiles: set[int]) -> None:
        for tile in tiles - self.empty:
            self.empty.add(tile)
            if str(len(self.empty)).rstrip("0") == "1":
                are = several(len(self.empty), "tile is", "tiles are")
                log.warning(
                    "%s: %s empty so far, of %d; others take their place", self.source.name, are, len(self.source)
                )

    def _report(self, faults: Faults) -> None:
        self._note_empty({index for index, reason in faults.items() if reason == EMPTY})
        new = {index: why for index, why in faults.items() if why != EMPTY and index not in self._faults}
        if not new:
            return
        self._faults.update(new)
        self.unreadable.update({self.source.path(index): reason for index, reason in new.items()})
        n = len(self.source)
        if len(self._faults) > max(self.tolerance * n, 1 if self.tolerance else 0):  # one in a small set ends no run
            path, reason = next(iter(self.unreadable.items()))
            raise RunError(
                f"{self.source.name}: {len(self._faults):,} of {several(n, 'image')} can't be read, more than the "
                f"allowed fraction of {self.tolerance:.3g} (--max-unreadable); unreadable.csv in the run folder lists "
                f"them; the first: {printable(path)}: {reason}"
            )


def moved(batches: Iterator[ImageBatch], device: torch.device) -> Generator[ImageBatch]:
    """Batches on the device. A separate CUDA stream copies them while earlier steps still compute."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(beside):
            there = batch.to(device, non_blocking=True)
        here = torch.cuda.current_stream(device)
        here.wait_stream(beside)
        there.pixels.record_stream(here)  # its memory is not reused before this step is done
        yield there


class _Steps(Dataset[Loaded]):
    """Step → the batch of one process. The order of the epoch is the only state kept between steps."""

    def __init__(
        self, images: Decoded | Held, batch_size: int, seed: int, process: int, processes: int, form: Pixels
    ) -> None:
        self.images, self.seed, self.form = images, seed, form
        self.batch_size, self.first, self.whole = batch_size, process * batch_size, batch_size * processes
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)
        self.empty: set[int] = set()  # that this process has met, and need not read again

    def __getitem__(self, step: int) -> Loaded:
        n = len(self.images)
        epoch, within = divmod(step, n // self.whole)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(n, self.seed, epoch)
        start = within * self.whole + self.first
        index: list[int] = self.order[start : start + self.batch_size].tolist()
        if isinstance(self.images, Held) and not self.images.faults:
            return self.images.batch(torch.tensor(index)), {}, {}
        faults: Faults = {}
        cut: Faults = {}
        images: list[Tensor] = []
        for row, wanted in enumerate(index):
            found = self._readable(wanted, step, self.first + row, faults)
            if found is None:
                return None, faults, cut
            index[row], image = found
            images.append(image)
            if said_of(image):
                cut[index[row]] = said_of(image)
        return ImageBatch.pack(images, index, self.form), faults, cut

    def _readable(self, wanted: int, step: int, row: int, faults: Faults) -> tuple[int, Tensor] | None:
        """The image, or the first readable one of its replacements; what is not readable goes into ``faults``."""
        unreadable, empty = 0, 0
        for candidate in self._candidates(wanted, step, row):
            try:
                if candidate in self.empty:
                    raise UnreadableImage("", EMPTY)
                return candidate, self.images.read(candidate)
            except UnreadableImage as error:
                faults[candidate] = error.reason
                if error.reason == EMPTY:
                    self.empty.add(candidate)
                    empty += 1
                else:
                    unreadable += 1
                if unreadable > TRIES or empty > EMPTY_TRIES:
                    break
        return None

    def _candidates(self, wanted: int, step: int, row: int) -> Iterator[int]:
        """The image itself, then its replacements without end, chosen by the row of the global batch."""
        yield wanted
        generator = stream(self.seed, "replacement", step, row)
        while True:
            yield from torch.randint(len(self.images), (TRIES,), generator=generator).tolist()
