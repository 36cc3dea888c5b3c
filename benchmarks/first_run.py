"""Does a newcomer's first run pay? 600 photographs in class folders, and no option but ``--data``.

    python benchmarks/first_run.py PACKS OUT [--seeds 0,1,2] [--first 60] [--images 60]

PACKS is the folder with the packs (``imagenette224``), OUT where the photographs and the runs go. Photographs are the
JPEG files of the training pack, as they are: ``--images`` of each of the ten classes from the ``--first`` on, in the
pack's order. The recipe's settings were chosen on those from 0 to 59, so those from 60 on confirm it. Every run is a
process of its own, as a user starts it; its wall time holds everything: start-up, decoding, measuring.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def write_photographs(packs: Path, folder: Path, first: int, count: int) -> None:
    """JPEG files in a folder for each class."""
    table = pq.read_table(packs / "imagenette224" / "imagenette224-sub-train.parquet")
    names = json.loads(table.schema.metadata[b"class_names"])
    seen = dict.fromkeys(range(len(names)), 0)
    for row, label in enumerate(table["label"].to_pylist()):
        number = seen[label]
        seen[label] += 1
        if first <= number < first + count:
            file = folder / names[label] / f"{number:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(table["image"][row].as_py())


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and processor seconds of a command.

    Raises:
        CalledProcessError: it failed.
    """
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--first", type=int, default=60)
    parser.add_argument("--images", type=int, default=60, help="of each class")
    given = parser.parse_args()
    photographs = given.out / "photographs"
    if not photographs.exists():
        write_photographs(given.packs, photographs, given.first, given.images)
    rows = ["| seed | trained | raw pixels | untrained | standard error | minutes | processor minutes |"]
    rows += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for seed in given.seeds.split(","):
        run = given.out / f"run-{seed}"
        command = [sys.executable, "-m", "hardviews.cli", "pretrain", "--data", str(photographs)]
        wall, processor = timed([*command, "--seed", seed, "--out", str(run)])
        summary = json.loads((run / "summary.json").read_text())
        names = ("knn_top1", "knn_top1_pixels", "knn_top1_untrained", "knn_top1_error")
        figures = [f"{summary[name]:.1%}" for name in names]
        rows.append(f"| {' | '.join([seed, *figures, f'{wall / 60:.1f}', f'{processor / 60:.1f}'])} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
