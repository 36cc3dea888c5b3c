"""Time and memory of the index of a folder of many files, each measured in a process of its own.

    python benchmarks/index.py [--files 1000000] [--folders 1000] [--in FOLDER] [--json FILE]

Empty files in as many folders are made in a new folder and removed at the end. The plain list is what ``sorted`` of the
same paths takes as Python objects, without an index. Rates are of random paths, and of reading the order of an epoch.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import arguments, table, write


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000, help="0: all in one")
    parser.add_argument("--in", dest="where", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(args.measure, args.where)))
        return
    room = os.statvfs(args.where).f_favail
    if room < args.files * 1.1 + 10_000:
        raise SystemExit(f"{args.where}: {room:,} inodes are free, too few for {args.files:,} files")
    scratch = Path(tempfile.mkdtemp(prefix="hardviews-index-", dir=args.where))
    os.environ["HARDVIEWS_CACHE"] = str(scratch / "cache")
    try:
        started = time.perf_counter()
        make(scratch / "files", args.files, args.folders)
        made = time.perf_counter() - started
        time.sleep(2.5)  # the index of a folder that has just changed is not kept
        found: dict[str, Any] = {}
        for what in ("import", "list", "build", "open", "order"):
            command = [sys.executable, __file__, "--measure", what, "--in", str(scratch / "files")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[what] = json.loads(done.stdout.splitlines()[-1])
        (index,) = (scratch / "cache" / "index").glob("*.folder")
        size = index.stat().st_size
    finally:
        shutil.rmtree(scratch)
    rows = [
        [
            what,
            f"{v['seconds']:.2f}",
            f"{v['mib']:.0f}",
            f"{v['paths_per_second']:,.0f}" if v["paths_per_second"] else "",
        ]
        for what, v in found.items()
    ]
    title = f"{args.files:,} files in {args.folders or 1:,} folders (made in {made:.0f} s); index {size >> 20} MiB"
    table(title, ["", "seconds", "peak MiB", "paths/s"], rows)
    write(args.json, {"files": args.files, "folders": args.folders, "index_bytes": size, "measured": found})


def make(root: Path, files: int, folders: int) -> None:
    """Empty files, which take an inode each and no more."""
    for folder in range(folders or 1):
        below = root / f"class-{folder:05d}" if folders else root
        below.mkdir(parents=True)
        for number in range(folder, files, folders or 1):
            os.close(os.open(below / f"image-{number:09d}.jpg", os.O_CREAT))


def measured(what: str, root: Path) -> dict[str, float]:
    """Seconds and peak memory of one thing, and paths per second where it gives any."""
    import torch

    from hardviews.data.loading.loader import epoch_order
    from hardviews.data.sources.folder import Folder

    started = time.perf_counter()
    count = 0
    if what == "list":
        files = sorted(os.path.join(at, name) for at, _, names in os.walk(root) for name in names)  # noqa: PTH118
        assert files
    elif what != "import":
        source = Folder(root)
    seconds = time.perf_counter() - started
    if what in ("open", "order"):
        n = len(source)
        again = time.perf_counter()
        order = epoch_order(n, 0, 0) if what == "order" else torch.randint(n, (200_000,))
        seconds = time.perf_counter() - again if what == "order" else seconds
        chosen = order[:200_000].tolist()
        again = time.perf_counter()
        for index in chosen:
            source.path(index)
        count = len(chosen)
        rate = count / (time.perf_counter() - again)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "mib": peak, "paths_per_second": rate if count else 0.0}


if __name__ == "__main__":
    main()
