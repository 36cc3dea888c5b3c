"""The order depends on the seed alone; faults are replaced and told; batches are what the source reads."""

import os
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from hardviews.data.loading.in_memory import Held
from hardviews.data.loading.in_order import in_order
from hardviews.data.loading.loader import Loader, epoch_order, moved
from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage, bounds_for
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError, RunError
from hardviews.views.images import ImageBatch


class Holed(Shapes):
    """Shapes of which some can't be read."""

    holes: frozenset[int] = frozenset()

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> torch.Tensor:
        if index in self.holes:
            raise UnreadableImage(self.path(index), "a hole")
        return super().read(index, bounds)


def holed(count: int, *holes: int) -> Holed:
    source = Holed(count=count, size=8)
    source.holes = frozenset(holes)
    return source


def ids(batches: Iterator[ImageBatch], n: int) -> list[list[int]]:
    return [batch.index.tolist() for batch in islice(batches, n)]


def joined(steps: Iterable[list[int]]) -> list[int]:
    return [index for step in steps for index in step]


def same(one: ImageBatch, other: ImageBatch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("pixels", "size", "index"))


def test_every_image_once_per_epoch_and_another_order_in_the_next() -> None:
    loader = Loader(Shapes(count=40, size=8), 10, seed=0)
    assert loader.steps_per_epoch == 4
    steps = ids(loader.batches(), 8)
    first, second = joined(steps[:4]), joined(steps[4:])
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first == epoch_order(40, 0, 0).tolist()
    assert ids(Loader(Shapes(count=40, size=8), 10, seed=1).batches(), 4) != steps[:4]


def test_the_end_of_an_epoch_that_fills_no_batch_is_dropped() -> None:
    loader = Loader(Shapes(count=25, size=8), 10, seed=0)
    assert loader.steps_per_epoch == 2
    assert joined(ids(loader.batches(), 2)) == epoch_order(25, 0, 0)[:20].tolist()
    assert ids(loader.batches(2), 1)[0] == epoch_order(25, 0, 1)[:10].tolist()


@pytest.mark.parametrize("processes", [2, 4])
def test_order_does_not_depend_on_the_number_of_processes(processes: int) -> None:
    source = holed(400, 3, 5)
    whole = Loader(source, 40, seed=0, in_memory=False).batches()
    parts = [
        Loader(source, 40 // processes, seed=0, process=p, processes=processes, in_memory=False).batches()
        for p in range(processes)
    ]
    for _ in range(12):  # more than an epoch: the holes' replacements too
        assert next(whole).index.tolist() == joined(next(part).index.tolist() for part in parts)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [3, 5, 11])
def test_starting_in_mid_epoch_equals_going_on(workers: int, start: int) -> None:
    source = holed(400, 1, 2, 3)
    through = list(islice(Loader(source, 80, seed=3, in_memory=False).batches(), 13))
    late = islice(Loader(source, 80, seed=3, workers=workers, in_memory=False).batches(start), 13 - start)
    for one, other in zip(through[start:], late, strict=True):
        assert same(one, other)


@pytest.mark.parametrize("holes", [(), (7, 300)])
def test_in_memory_equals_streaming(holes: tuple[int, ...], device: str) -> None:
    source = holed(400, *holes)
    held = Loader(source, 50, seed=0, device=torch.device(device))
    streamed = Loader(source, 50, seed=0, in_memory=False)
    for one, other in islice(zip(held.batches(), streamed.batches(), strict=True), 9):
        assert one.device.type == device
        assert same(one.to("cpu"), other)
    assert held.unreadable == streamed.unreadable
    assert len(held.unreadable) == len(holes)


def test_batches_are_moved_as_they_are(device: str) -> None:
    source = holed(60)
    loader, again = (Loader(source, 20, seed=0, in_memory=False, pin_memory=device == "cuda") for _ in range(2))
    for there, here in islice(zip(moved(loader.batches(), torch.device(device)), again.batches(), strict=True), 7):
        assert there.device.type == device
        assert same(there.to("cpu"), here)


def test_an_unreadable_image_is_replaced_and_told() -> None:
    source = holed(200, 11)
    runs = []
    for workers in (0, 1):
        loader = Loader(source, 100, seed=0, workers=workers, in_memory=False)
        runs.append(ids(loader.batches(), 4))
        assert loader.unreadable == {"shapes/train/11": "a hole"}
    assert runs[0] == runs[1]
    epochs = [joined(runs[0][:2]), joined(runs[0][2:])]
    assert all(len(epoch) == 200 and 11 not in epoch for epoch in epochs)
    assert all(len(set(range(200)) - set(epoch)) == 1 for epoch in epochs)


def test_more_unreadable_images_than_tolerated_end_the_run() -> None:
    loader = Loader(holed(200, 1, 2, 3), 100, seed=0, in_memory=False)
    with pytest.raises(RunError, match=r"3 of 200 images can't be read.*the first: shapes/train/\d: a hole"):
        ids(loader.batches(), 2)
    ids(Loader(holed(200, 1, 2, 3), 100, seed=0, tolerance=0.015, in_memory=False).batches(), 2)
    with pytest.raises(RunError, match="unreadable"):
        next(Loader(holed(20, *range(20)), 10, seed=0, tolerance=1.0).batches())


def test_a_killed_worker_is_an_error_and_no_hang() -> None:
    class Deadly(Shapes):
        def read(self, index: int, bounds: Bounds = UNBOUNDED) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().read(index, bounds)

    with pytest.raises(RunError, match="loading images failed"):
        next(Loader(Deadly(count=20, size=8), 10, seed=0, workers=1, in_memory=False).batches())


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(InputError, match="a batch of 24 images is larger than the data: shapes has 20"):
        Loader(Shapes(count=20), 12, seed=0, processes=2)
    with pytest.raises(InputError, match="too few"):
        bounds_for(100, max_batch_bytes=200)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    for k in range(6):
        Image.new("RGB", (60 + 10 * k, 40), (k, k, k)).save(tmp_path / f"{k}.png")
    source = Folder(tmp_path)
    batch = next(Loader(source, 6, seed=0).batches())
    assert {(int(i), int(size[1])) for i, size in zip(batch.index, batch.size, strict=True)} == {
        (k, 60 + 10 * k) for k in range(6)
    }
    assert all((batch.image(b) == batch.index[b]).all() for b in range(6))
    small = next(Loader(source, 6, seed=0, decode_size=20, max_batch_bytes=6 * 3 * 1000).batches())
    assert (small.size.prod(1) <= 1000).all()


@pytest.mark.parametrize("hole", [False, True])
def test_images_of_different_sizes_are_held_on_request(hole: bool, tmp_path: Path, device: str) -> None:
    for k in range(6):
        Image.new("RGB", (60 + 10 * k, 40), (k, k, k)).save(tmp_path / f"{k}.png")
    if hole:
        (tmp_path / "0.png").write_bytes(b"no picture")
    source = Folder(tmp_path)
    held = Loader(source, 2, seed=0, in_memory=True, device=torch.device(device), decode_size=20, tolerance=0.5)
    read = Loader(source, 2, seed=0, in_memory=False, decode_size=20, tolerance=0.5)
    assert isinstance(held._images, Held)
    for one, other in islice(zip(held.batches(), read.batches(), strict=True), 7):
        assert one.device.type == device
        assert same(one.to("cpu"), other)
    assert held.unreadable == read.unreadable
    assert len(held.unreadable) == hole


def test_a_folder_of_small_pictures_is_held_unless_one_has_another_size(tmp_path: Path) -> None:
    for k in range(8):
        Image.new("RGB", (16, 16), (k, k, k)).save(tmp_path / f"{k}.png")
    for k, size in ((8, (16, 16)), (2, (20, 18))):  # neither the first nor the middle nor the last
        Image.new("RGB", size, (k, k, k)).save(tmp_path / f"{k}.png")
        source = Folder(tmp_path)
        assert source.native_size == 16
        loader = Loader(source, 9, seed=0)
        assert isinstance(loader._images, Held) == (k == 8)
        batch = next(loader.batches())
        assert all((batch.image(b) == batch.index[b]).all() for b in range(9))


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order_gives_every_readable_image_once(workers: int) -> None:
    source = holed(25, 0, 13, *range(20, 25))
    unreadable: dict[str, str] = {}
    batches = list(in_order(source, 5, workers=workers, unreadable=unreadable))
    assert torch.cat([batch.index for batch in batches]).tolist() == [k for k in range(20) if k not in (0, 13)]
    assert len(unreadable) == 7
    for batch in batches:
        for b, index in enumerate(batch.index.tolist()):
            assert torch.equal(batch.image(b), source.read(index).permute(2, 0, 1))


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_take_the_batches_of_one_in_order(processes: int) -> None:
    source = holed(23, 6)
    whole = [batch.index.tolist() for batch in in_order(source, 5)]
    parts = [
        [batch.index.tolist() for batch in in_order(source, 5, process=process, processes=processes)]
        for process in range(processes)
    ]
    assert [batch for part in parts for batch in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
