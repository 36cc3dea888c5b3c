"""Do the newer methods learn, and do hard views help them? Small runs on packs that are at hand.

    python benchmarks/new_methods.py PACKS OUT [--only lejepa,vicreg] [--sets cifar10,imagenette] [--seeds 1]
        [--epochs 10] [--limit IMAGES]

PACKS is the folder with the packs (``cifar10``, ``imagenette224``), OUT where the runs go: one comparison (``hardviews
compare``) for each method of ``METHODS`` and each set of ``SETS``, of the method with hard views and without
(``random``), for equally many epochs. The backbone is the narrow ResNet of ``evidence.py``, of DINOv2 its Vision
Transformer. The same command goes on
where it stopped; more ``--seeds`` are added. At the end a table has kNN accuracy beside that of the same backbone
before training, and the spread of features (1 is even, 0 a collapse); ``comparison.md`` of each folder has differences
with intervals, if there are several seeds.

``--limit 512 --epochs 1`` is a dry run on so many images.
"""

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evidence import MILD, NARROW

from hardviews.cli import main as hardviews

ADAMW = "--optimizer adamw --min-lr 0 --lr 0.004 --batch-size 128"
CROPS = "--plan.scale 0.2,1.0"
VIT = (
    "--backbone vit_tiny_patch16_224 --backbone.embed_dim 96 --backbone.depth 4 --backbone.num_heads 3 "
    "--backbone.patch_size"
)
# Options that a backbone takes from the set.
STEMS = {
    "cifar10": (f"{NARROW} --backbone.stem cifar", f"{VIT} 8"),
    "imagenette": (f"{NARROW} --backbone.stem imagenet", f"{VIT} 16"),
}

# Options of small runs, and whether the backbone is the Vision Transformer.
METHODS = {
    "vicreg": (
        f"--method vicreg --method.dim 512 --method.hidden_dim 512 {CROPS} --plan.blur_p 0 {ADAMW} --warmup-epochs 1 "
        "--weight-decay 1e-4", False,
    ),
    "lejepa": (
        f"--method lejepa --method.hidden_dim 512 --method.directions 256 --plan.globals 4 --plan.locals 0 {CROPS} "
        f"--plan.blur_p 0 --plan.solarize_p 0 {ADAMW} --warmup-epochs 1 --weight-decay 5e-4", False,
    ),
    "mocov3": (
        f"--method mocov3 --method.dim 128 --method.hidden_dim 512 --method.temperature 0.2 {CROPS} "
        f"--plan.blur_p 0,0 --plan.solarize_p 0 {ADAMW} --warmup-epochs 1 --weight-decay 1e-4", False,
    ),
    "swav": (
        f"--method swav --method.dim 64 --method.hidden_dim 512 --method.prototypes 256 --method.freeze_prototypes 0 "
        f"--plan.locals 0 {CROPS} --plan.strength 0.5 --plan.blur_p 0 {ADAMW} --warmup-epochs 0.5 --weight-decay 1e-6",
        False,
    ),
    "dinov2": (
        f"{MILD} --method dinov2 --method.hidden_dim 256 --method.bottleneck_dim 64 --method.freeze_last_layer 0 "
        "--method.prototypes 256 --method.warmup_teacher_epochs 0 --method.teacher_temperature 0.04 "
        f"--method.teacher_momentum 0.98 --plan.locals 0 --clip 1 {ADAMW} --warmup-epochs 1 --weight-decay 0.04", True,
    ),
}  # fmt: skip
# Training and test table, the number of training images that are taken, options.
SETS = {
    "cifar10": (
        "cifar10/cifar10-jpeg-train.parquet", "cifar10/cifar10-jpeg-test.parquet", 5_000,
        "--image-size 32",
    ),
    "imagenette": (
        "imagenette224/imagenette224-sub-train.parquet", "imagenette224/imagenette224-sub-val.parquet", 4_600,
        "--image-size 64",
    ),
}  # fmt: skip


def taken(table: Path, out: Path, count: int) -> Path:
    """A table of some images of a table, evenly from all of it, since one is sorted by class."""
    rows = pq.read_table(table)
    if rows.num_rows <= count:
        return table
    subset = out / f"{table.stem}-{count}.parquet"
    if not subset.exists():
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.take(np.arange(count) * rows.num_rows // count), subset.with_suffix(".part"))
        subset.with_suffix(".part").replace(subset)
    return subset


def command(method: str, name: str, given: argparse.Namespace) -> list[str]:
    """The command line of one comparison."""
    train_table, test_table, count, options = SETS[name]
    train = taken(given.packs / train_table, given.out, min(count, given.limit or count))
    test = taken(given.packs / test_table, given.out, given.limit or sys.maxsize)
    own = (
        f"--data {train} --test-data {test} --in-memory on --epochs {given.epochs} --seeds {given.seeds} "
        f"--equal-time false --protocol knn --workers 0 --tensorboard false --out {given.out / f'{method}-{name}'}"
    )
    of_method, vit = METHODS[method]
    return ["compare", *shlex.split(f"{STEMS[name][vit]} {of_method} {options} {own}")]


def found(folder: Path) -> list[dict[str, Any]]:
    """Of every run of a comparison, its final figures and the spread of features at the end."""
    rows = []
    for file in sorted(folder.glob("runs/*/summary.json")):
        with (file.parent / "metrics.csv").open() as metrics:
            *_, last = csv.DictReader(metrics)
        rows.append({"run": file.parent.name, **json.loads(file.read_text()), "feature_std": last["feature_std"]})
    return rows


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of all runs, which a reader may add to RESULTS.md."""
    rows = ["| comparison | run | kNN untrained | trained | raw pixels | standard error | feature_std | seconds |"]
    rows.append("| --- " * 8 + "|")
    for name, of_name in runs.items():
        for run in of_name:
            knn = [100 * run[f"knn_top1{kind}"] for kind in ("_untrained", "", "_pixels", "_error")]
            figures = " | ".join(f"{value:.1f}" for value in knn)
            rows.append(
                f"| {name} | {run['run']} | {figures} | {float(run['feature_std']):.2f} | {run['seconds']:.0f} |"
            )
    return "\n".join(rows)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(METHODS), help="some methods, by name")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1", help="how many")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=0, help="number of images, for a dry run")
    given = parser.parse_args()
    for kind, names, known in (("--only", given.only, METHODS), ("--sets", given.sets, SETS)):
        if unknown := set(names.split(",")) - set(known):
            parser.error(f"{kind}: {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    runs = {}
    for name in given.sets.split(","):
        for method in given.only.split(","):
            if code := hardviews(command(method, name, given)):
                sys.exit(code)
            runs[f"{method}-{name}"] = found(given.out / f"{method}-{name}")
    print(table(runs))


if __name__ == "__main__":
    main()
