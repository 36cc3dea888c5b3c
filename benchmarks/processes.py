"""Whole runs in one process and in several on the same machine, with the same global batch: images per second.

    python benchmarks/processes.py [--processes 2] [--method simsiam] [--backbone resnet18] [--size 64] [--batch 64]
        [--repeats 3] [--json FILE]

Processes of one thread each are compared with one process of one thread, and with one of as many threads as there are
processes. Runs are made in turns, each of ``--steps`` steps from generated pictures, which the processes draw
themselves; the first half of the steps is not counted.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from side_by_side import arguments, table, write


def speed(args: argparse.Namespace, processes: int, threads: int) -> float:
    """Images per second of a run, as its metrics have them."""
    images = args.batch * args.steps
    line = (
        f"pretrain --data shapes:{images} --method {args.method} --backbone {args.backbone} --image-size {args.size} "
        f"--batch-size {args.batch} --epochs 1 --warmup-epochs 0 --knn-epochs 0 --telemetry 0 --tensorboard false "
        f"--workers 0 --log-steps {args.steps // 2} --accelerator cpu --devices {processes}"
    )
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "hardviews.cli", *line.split(), "--out", str(run)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        with (run / "metrics.csv").open() as file:
            return float(list(csv.DictReader(file))[-1]["images_per_second"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--method", default="simsiam")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    ways = {
        "1 process of 1 thread": (1, 1),
        f"{args.processes} processes of 1 thread": (args.processes, 1),
        f"1 process of {args.processes} threads": (1, args.processes),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            speeds[name].append(speed(args, *way))
    [first, *_] = ways
    found, rows = {}, []
    for name, values in speeds.items():
        turns = [value / base for value, base in zip(values, speeds[first], strict=True)]
        found[name] = {
            "images_per_second": median(values), "ratio": median(turns), "lowest": min(turns), "highest": max(turns)
        }  # fmt: skip
        rows.append([name, f"{median(values):.1f}", *(f"{v:.2f}" for v in (median(turns), min(turns), max(turns)))])
    title = f"{args.method}, {args.backbone} at {args.size} px, batch {args.batch} over all processes"
    table(title, ["", "images/s", "times as fast", "lowest", "highest"], rows)
    write(args.json, {"cores": os.cpu_count(), "batch": args.batch, "size": args.size, "ways": found})


if __name__ == "__main__":
    main()
