"""Streams: each image once an epoch, the same order after a resume, and no hang whatever a server does."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile

from hardviews.data.loading import stream_batches
from hardviews.data.loading.loader import Loader
from hardviews.data.loading.stream_batches import shuffled
from hardviews.data.reading import remote
from hardviews.data.reading.decode import Bounds, decode
from hardviews.data.reading.remote import Remote
from hardviews.data.sources import open_source
from hardviews.data.sources.streams import Encoded, Stream, tar_stream
from hardviews.errors import InputError, RunError
from tests.data.serving import Served, serving
from tests.data.tars import png, shards


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Eight shards of five images each; nobody waits long, but often enough for a machine that is slow itself."""
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    monkeypatch.setattr(remote, "PAUSES", (0.01,) * 4)
    shards(tmp_path / "set", [5] * 8)
    with serving(tmp_path / "set") as served:
        yield served


def opened(served: Served, count: int = 8, images: int = 40) -> Stream:
    return tar_stream(f"{served.address}/{{000..{count - 1:03d}}}.tar", images, allow_pipe=False)


def steps(
    source: Stream, first: int, last: int, processes: int = 1, workers: int = 0, seed: int = 0
) -> list[list[int]]:
    """Of every step the colours of the images of all processes."""
    parts = [
        Loader(source, 8 // processes, seed, p, processes, workers, shuffle_bytes=600).batches(first)
        for p in range(processes)
    ]
    seen = []
    for _ in range(first, last):
        batches = [next(part) for part in parts]
        seen.append([int(batch.image(b)[0, 0, 0]) for batch in batches for b in range(len(batch))])
    return seen


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_image_once_an_epoch_whatever_the_workers(served: Served, processes: int) -> None:
    runs = [steps(opened(served), 0, 10, processes, workers) for workers in (0, 1, 3)]
    assert runs[0] == runs[1] == runs[2]
    for epoch in (runs[0][:5], runs[0][5:]):
        assert sorted(k for step in epoch for k in step) == list(range(40))
    assert runs[0][:5] != runs[0][5:]
    assert runs[0] != steps(opened(served), 0, 10, processes, seed=1)


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
def test_shards_that_are_left_over_are_shared(served: Served, processes: int) -> None:
    """Five shards: each process takes as many as the others, and of the rest every P-th image."""
    source = opened(served, 5)
    parts = [list(source.part(0, 0, p, processes)) for p in range(processes)]
    assert Counter(image.number for part in parts for image in part) == Counter(
        shard << 32 | place for shard in range(5) for place in range(5)
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 5 % processes


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [2, 5, 8])
def test_starting_in_mid_epoch_equals_going_on(served: Served, processes: int, workers: int, start: int) -> None:
    source = opened(served)
    assert steps(source, start, 11, processes, workers) == steps(source, 0, 11, processes)[start:]


def test_nothing_that_is_passed_over_is_decoded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def noted(data: bytes, bounds: Bounds, name: str) -> torch.Tensor:
        decoded.append(name)
        return decode(data, bounds, name)

    monkeypatch.setattr(stream_batches, "decode", noted)
    next(Loader(opened(served), 8, 0).batches(4))
    assert len(decoded) == 8


def test_a_part_that_is_too_small_begins_again(tmp_path: Path) -> None:
    shards(tmp_path, [2, 14])
    with serving(tmp_path) as served:
        source = opened(served, 2, 16)
        seen = Counter(k for step in steps(source, 0, 2, 2) for k in step)
    assert seen[0] == seen[1] == 4  # of eight places of one process
    assert len(seen) == 10


def test_shuffling_holds_so_many_bytes_and_moves_every_image() -> None:
    taken = 0

    def images() -> Iterator[Encoded]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield Encoded(bytes(100), "", number)

    order = []
    for image in shuffled(images(), 10_000, torch.Generator().manual_seed(0)):
        order.append(image.number)
        assert taken - len(order) <= 100
    assert sorted(order) == list(range(1000))
    assert sum(abs(place - number) for place, number in enumerate(order)) / 1000 > 50


@pytest.mark.parametrize("kind", ["break", "stall", "500"])
def test_what_breaks_off_is_taken_up_where_it_stood(served: Served, kind: str) -> None:
    expected = steps(opened(served), 0, 5)
    served.asked.clear()
    served.faults = {"003.tar": (kind, 2), "005.tar": ("500", 1)}
    assert steps(opened(served), 0, 5) == expected
    assert served.asked["003.tar"] >= 3


@pytest.mark.parametrize("kind", ["break", "stall"])
def test_nothing_comes_twice(served: Served, kind: str) -> None:
    served.faults = {"003.tar": (kind, 2)}
    with closing(Remote(f"{served.address}/003.tar")) as read:
        assert read.read(1 << 20) == (served.folder / "003.tar").read_bytes()
    assert served.bytes <= (served.folder / "003.tar").stat().st_size


def test_of_a_server_without_ranges_what_was_read_is_passed_over(served: Served) -> None:
    served.faults = {"003.tar": ("no ranges", 9)}
    read = Remote(f"{served.address}/003.tar")
    read.skip(5000)
    read.close()
    assert read.read(1 << 20) == (served.folder / "003.tar").read_bytes()[5000:]
    read.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("silence", 99), r"003\.tar: nothing came for 0.5 s at byte \d+, after 5 tries"),
        (("500", 99), r"003\.tar: the server says 500 .* at byte 0, after 5 tries"),
        (None, r"003\.tar: the server says 404 Not Found at byte 0; "),
        (("astray", 99), r"003\.tar: .*IPv6.* at byte 0; "),
        (b"cut", r"003\.tar: damaged at byte 2048: it ends here or before"),
    ],
)
def test_a_shard_that_cant_be_read_ends_the_run_in_one_line(
    served: Served, fault: tuple[str, int] | bytes | None, message: str
) -> None:
    file = served.folder / "003.tar"
    if fault is None:
        file.unlink()
    elif isinstance(fault, bytes):
        file.write_bytes(file.read_bytes()[:2000])
    else:
        served.faults = {"003.tar": fault}
    started = time.monotonic()
    for workers in (0, 1):
        with pytest.raises(RunError, match=message) as caught:
            list(islice(Loader(opened(served), 8, 0, workers=workers).batches(), 5))
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 120


def test_nobody_there_is_one_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tar_stream("http://127.0.0.1:9/{0..3}.tar", 40, allow_pipe=False)
    with pytest.raises(RunError, match="Connection refused at byte 0, after 5 tries"):
        next(Loader(source, 8, 0).batches())


def test_unreadable_images_are_replaced_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = shards(tmp_path, [40])
    data = file.read_bytes()
    assert data.count(png(7)) == 1
    file.write_bytes(data.replace(png(7), bytes(len(png(7)))))
    with serving(tmp_path) as served:
        for workers in (0, 1):
            loader = Loader(opened(served, 1), 8, 0, workers=workers, tolerance=0.03)
            seen = [int(batch.image(b)[0, 0, 0]) for batch in islice(loader.batches(), 5) for b in range(8)]
            assert set(seen) == set(range(40)) - {7}
            assert loader.unreadable == {f"{served.address}/000.tar#7": "not a picture of a known format"}
        with pytest.raises(RunError, match="1 of 40 images can't be read"):
            list(islice(Loader(opened(served, 1), 8, 0, tolerance=0).batches(), 5))


def test_how_many_images_there_are(served: Served) -> None:
    data = f"{served.address}/{{000..001}}.tar"
    with pytest.raises(InputError, match=r"epoch-images: the number of images in .* is not known"):
        tar_stream(data, None, allow_pipe=False)
    (served.folder / "sizes.json").write_text(json.dumps({"000.tar": 5, "001.tar": 5, "002.tar": 5}))
    assert len(tar_stream(data, None, allow_pipe=False)) == 10
    with pytest.raises(InputError, match="a batch of 16 images is larger than the data"):
        Loader(tar_stream(data, None, allow_pipe=False), 16, 0)


def test_a_command_runs_only_if_it_may(served: Served, tmp_path: Path) -> None:
    data = f"pipe:touch {tmp_path}/ran; cat {served.folder}/{{000..007}}.tar"
    with pytest.raises(InputError, match="--allow-pipe"):
        tar_stream(data, 40, allow_pipe=False)
    assert not (tmp_path / "ran").exists()
    seen = steps(tar_stream(data, 40, allow_pipe=True), 0, 5)
    assert seen == steps(opened(served), 0, 5)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "the command ended with code 3 at byte 0, after 5 tries"),
        ("sleep 60", "nothing came for 0.5 s at byte 0, after 5 tries"),
        ("exec >&-; sleep 60", "nothing came for 0.5 s at byte 0, after 5 tries"),
        ("head -c 2000 FOLDER/000.tar", "damaged at byte 2048: it ends here or before"),
        ("head -c 2000 FOLDER/000.tar; exit 1", "code 1 at byte 2000, after 5 tries"),
    ],
)
def test_commands_that_fail(served: Served, command: str, message: str) -> None:
    data = f"pipe:{command.replace('FOLDER', str(served.folder))}"
    with pytest.raises(RunError, match=message) as caught:
        next(Loader(tar_stream(data, 40, allow_pipe=True), 8, 0).batches())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://host/ü.tar", "'ü' must be percent-encoded"),
        ("http://host/{a,b c}.tar", "' ' must be percent-encoded"),
        ("http://host/\udcff.tar", "must be percent-encoded"),
        ("http://[bad/x.tar", "Invalid IPv6 URL"),
        ("http://host:99999/x.tar", "Port out of range"),
        ("http://a..b/x.tar", "label"),
        ("http:///x.tar", "there is no host in it"),
        ("https://me:secret@host/x.tar", "a name or password can't be given"),
    ],
)
def test_what_is_no_address_is_one_line_before_anything_is_asked_for(address: str, reason: str) -> None:
    with pytest.raises(InputError, match=r"is no web address: .*; give it as http://HOST/FILE") as caught:
        tar_stream(address, 40, allow_pipe=False)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", ["http://h/{0..9}.tar", "s3://b/{0..9}.tar", "https://h/0.tar", "pipe:cat x", "hf-stream:user/name"]
)
def test_what_needs_numbers_takes_no_stream(data: str) -> None:
    with pytest.raises(InputError, match="only pretrain reads it"):
        open_source(data)


@pytest.fixture
def stored(served: Served) -> Iterator[str]:
    """The same shards in fsspec's own memory, which stands for an object store."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{served.folder}/", "/bucket/", recursive=True)
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_object_store_gives_what_a_server_gives_and_a_resume_goes_on(
    served: Served, stored: str, workers: int
) -> None:
    source = tar_stream(f"{stored}/{{000..007}}.tar", 40, allow_pipe=False)
    through = steps(source, 0, 10, workers=workers)
    assert through == steps(opened(served), 0, 10)
    assert steps(source, 7, 10, workers=workers) == through[7:]


def test_an_object_store_that_fails_is_asked_again_at_the_same_byte(
    served: Served, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoreError(Exception):
        """As of a library that does not know of ``OSError``."""

    read, asked = MemoryFile.read, 0

    def failing(self: MemoryFile, count: int = -1) -> bytes:
        nonlocal asked
        asked += 1
        if asked % 3 == 0:
            raise StoreError("slow down")
        found: bytes = read(self, min(count, 1000))
        return found

    monkeypatch.setattr(MemoryFile, "read", failing)
    with closing(Remote(f"{stored}/003.tar")) as remote_file:
        assert remote_file.read(1 << 20) == (served.folder / "003.tar").read_bytes()
    assert asked > 6
    monkeypatch.setattr(MemoryFile, "read", Mock(side_effect=StoreError("slow down")))
    with pytest.raises(RunError, match=r"003\.tar: slow down at byte 0, after 5 tries"):
        Remote(f"{stored}/003.tar").read(10)


@pytest.mark.usefixtures("served")
def test_what_an_object_store_lacks_is_said_at_once(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (1000.0,))
    with pytest.raises(RunError, match=r"^memory://bucket/999\.tar: no such file at byte 0; the same command"):
        Remote(f"{stored}/999.tar").read(10)
    with pytest.raises(InputError, match="is not known"):
        tar_stream(f"{stored}/000.tar", None, allow_pipe=False)
    fsspec.filesystem("memory").pipe("/bucket/sizes.json", b'{"000.tar": 5}')
    assert len(tar_stream(f"{stored}/000.tar", None, allow_pipe=False)) == 5


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, address in (("s3fs", "s3://b/0.tar"), ("gcsfs", "gs://b/0.tar"), ("adlfs", "abfs://c@a/0.tar")):
        monkeypatch.setitem(sys.modules, package, None)  # whether installed or not
        with pytest.raises(InputError, match=rf"needs a package that is not installed: pip install {package}$"):
            tar_stream(address, 40, allow_pipe=False)
    with pytest.raises(InputError, match=r"fsspec knows no addresses that begin with s4://"):
        tar_stream("s4://b/0.tar", 40, allow_pipe=False)
    with pytest.raises(InputError, match="a name or password can't be given"):
        tar_stream("s3://key:secret@b/0.tar", 40, allow_pipe=False)
