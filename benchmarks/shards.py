"""Local shards and streams: how fast headers are read and images fetched, and what beginning in mid-epoch costs.

    python benchmarks/shards.py PICTURE [--shards 20] [--images 1000] [--json FILE]

Shards of so many copies of a picture are made in a temporary folder; the stream comes from Python's own web server on
this machine. Nothing is decoded, so these are rates that decoding can't exceed.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from side_by_side import arguments, table, write

from hardviews.data.loading.stream_batches import SHUFFLE_BYTES, Batches
from hardviews.data.reading.remote import Remote
from hardviews.data.sources.shards import Shards
from hardviews.data.sources.streams import tar_stream
from hardviews.errors import RunError

PORT = 8765


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000, help="in each")
    args = parser.parse_args()
    picture, total = args.picture.read_bytes(), args.shards * args.images
    found: dict[str, float] = {}

    def timed(what: str, run: Callable[[], object], images: int) -> None:
        started = time.perf_counter()
        run()
        found[what] = time.perf_counter() - started
        rows.append([what, f"{found[what]:.2f}", f"{images / found[what]:,.0f}"])

    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HARDVIEWS_CACHE"] = f"{scratch}/cache"
        files = [make(Path(scratch) / f"{shard:03d}.tar", picture, args.images) for shard in range(args.shards)]
        timed("headers by tarfile", lambda: [len(tarfile.open(file).getnames()) for file in files], total)  # noqa: SIM115
        timed("index", lambda: Shards(files, "shards"), total)
        source = Shards(files, "shards")
        order = torch.randperm(total).tolist()
        timed("encoded images at random", lambda: [source.encoded(index) for index in order], total)
        server = subprocess.Popen(
            [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", scratch],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait()
            stream = tar_stream(f"http://127.0.0.1:{PORT}/{{000..{args.shards - 1:03d}}}.tar", total, allow_pipe=False)
            batches = Batches(stream, 100, 0, 0, 1, SHUFFLE_BYTES)
            steps = total // 100
            timed("stream, an epoch", lambda: list(islice(batches(0), steps)), total)
            timed("stream, begun in mid-epoch: the first batch", lambda: next(batches(steps // 2)), total // 2)
        finally:
            server.kill()
            server.wait()
    title = f"{args.shards} shards of {args.images} images of {len(picture):,} bytes, each with a label"
    table(title, ["", "seconds", "images/s"], rows)
    write(args.json, {"shards": args.shards, "images": args.images, "bytes": len(picture), "seconds": found})


def make(file: Path, picture: bytes, images: int) -> Path:
    with tarfile.open(file, "w") as tar:
        for number in range(images):
            for extension, content in (("jpg", picture), ("cls", b"%d" % (number % 10))):
                info = tarfile.TarInfo(f"{number:08d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def wait() -> None:
    """Until the server answers."""
    for _ in range(100):
        try:
            Remote(f"http://127.0.0.1:{PORT}/000.tar").read(1)
        except RunError:
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
