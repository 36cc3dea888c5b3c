"""Do hard views pay? The runs behind EVIDENCE.md, whose plan was written before them.

    python benchmarks/evidence.py PACKS OUT [--only simsiam,simclr] [--dry-run]
    python benchmarks/evidence.py PACKS OUT --write

PACKS is the folder with the packs (``cifar10``, ``imagenette224``), OUT where the runs go: one comparison
(``hardviews compare``) for each of ``COMPARISONS``, in their order. The same command goes on where it stopped, and may
be started once for every core (``OMP_NUM_THREADS=1 taskset -c N``): runs are shared out. ``--write`` puts tables and
a plot of what is finished into EVIDENCE.md and evidence.svg.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hardviews.analysis import statistics
from hardviews.cli import main as hardviews
from hardviews.telemetry import reading

STOPPED = 128  # exit codes from here on: by a signal
HERE = Path(__file__).parent
MARK = "<!-- What follows is written by evidence.py --write. -->"
SECOND = "# Part two"  # of EVIDENCE.md, which equal_time.py writes
PAPER = "the paper, SimSiam on ImageNet, read off a plot | | 0.35 | 0.49 | 0.33 to 0.47 | "
IMAGES = 10_000  # of CIFAR-10, the first in its own order

CIFAR = "--data {subset} --test-data {packs}/cifar10/cifar10-jpeg-test.parquet --epochs 20"
NETTE = (
    "--data {packs}/imagenette224/imagenette224-sub-train.parquet --in-memory on --epochs 40 --image-size 64 "
    "--test-data {packs}/imagenette224/imagenette224-sub-val.parquet"
)
# Blocks of 16 to 128 channels, one a stage, behind a stem of 16.
NARROW = (
    "--backbone resnet18 --backbone.channels 16,32,64,128 --backbone.layers 1,1,1,1 --backbone.stem_type deep "
    "--backbone.stem_width 8"
)
NARROW_CIFAR = f"{NARROW} --backbone.stem cifar"
MILD = (
    "--plan.brightness 0.2 --plan.contrast 0.2 --plan.saturation 0.1 --plan.hue 0.05 --plan.solarize_p 0 "
    "--plan.blur_p 0,0,0 --plan.scale 0.5,1.0"
)
SIMCLR = (
    "--method simclr --method.hidden_dim 512 --method.temperature 0.2 --plan.strength 0.5 --plan.blur_p 0 "
    "--optimizer adamw --lr 0.002 --weight-decay 1e-4 --warmup-epochs 1"
)
SMALLER, TEACHER = "cheap: --score-resolution 0.75", "cheap: --score-network teacher"

# Name: number of seeds, the cheap arm, options.
COMPARISONS = {
    "simsiam": (
        5, SMALLER,
        f"{CIFAR} {NARROW_CIFAR} --method simsiam --method.projector_layers 2 --method.dim 1024 "
        "--method.predictor_dim 256 --plan.blur_p 0 --batch-size 128 --lr 0.12",
    ),
    "simclr": (3, SMALLER, f"{CIFAR} {NARROW_CIFAR} {SIMCLR} --batch-size 256"),
    "imagenette": (3, SMALLER, f"{NETTE} {NARROW} --backbone.stem imagenet {SIMCLR} --batch-size 128"),
    "ibot": (
        3, TEACHER,
        f"{CIFAR} {MILD} --backbone vit_tiny_patch16_224 --backbone.embed_dim 96 --backbone.depth 4 "
        "--backbone.num_heads 3 --backbone.patch_size 8 --method ibot --method.hidden_dim 256 "
        "--method.bottleneck_dim 64 --method.freeze_last_layer 0 --method.prototypes 512 "
        "--method.warmup_teacher_epochs 0 --method.patch_temperature 0.06 --method.teacher_momentum 0.98 --clip 1.0 "
        "--weight-decay 0.04 --batch-size 64 --lr 0.004 --warmup-epochs 1",
    ),
    "dino": (
        3, TEACHER,
        f"{CIFAR} {NARROW_CIFAR} {MILD} --method dino --plan.locals 2 --plan.local_scale 0.25,0.6 --plan.local_size 16 "
        "--method.teacher_temperature 0.02 --method.warmup_teacher_temperature 0.02 --method.bn_in_head true "
        "--method.prototypes 512 --method.hidden_dim 512 --method.teacher_momentum 0.99 --method.freeze_last_layer 0 "
        "--batch-size 128 --lr 0.002 --warmup-epochs 1",
    ),
}  # fmt: skip


def command(name: str, packs: Path, out: Path) -> list[str]:
    """The command line of one comparison."""
    seeds, cheap, options = COMPARISONS[name]
    given = options.format(subset=out / "cifar10-10000.parquet", packs=packs)
    own = f"--seeds {seeds} --scoring exact --workers 0 --tensorboard false --out {out / name}"
    return ["compare", *shlex.split(given), *shlex.split(own), "--arm", cheap]


def take_subset(packs: Path, file: Path) -> None:
    """The first images of CIFAR-10's training set, in its own order."""
    if not file.exists():
        table = pq.read_table(packs / "cifar10" / "cifar10-jpeg-train.parquet")
        first = np.argsort(table["index"].to_numpy(), kind="stable")[:IMAGES]
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.take(first), file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)


def kept_views(folder: Path) -> list[dict[str, Any]]:
    """Of every arm with hard views: IoU of the kept and of a random pair, and how often the kept is the lowest pair, by
    seed, over all epochs."""
    rows = []
    for arm in ("hardest", "cheap"):
        found = []
        for run in sorted(folder.glob(f"runs/{arm}-*/summary.json")):
            if json.loads(run.read_text())["epochs"] == json.loads((folder / "plan.json").read_text())["epochs"]:
                table = statistics.by_epoch(reading.load(run.parent))
                names = ("iou_kept", "iou_random", "lowest_iou_kept", "lowest_iou_random")
                found.append([float(np.mean(table[name])) for name in names])
        if found:
            rows.append({"arm": arm, "seeds": len(found), "mean": np.mean(found, 0), "spread": np.ptp(found, 0)})
    return rows


def results(out: Path) -> str:
    """Markdown of all comparisons that have begun."""
    parts = ["![Differences from the plain method, with intervals](evidence.svg)"]
    for name, (_, cheap, _) in COMPARISONS.items():
        folder = out / name
        if not (folder / "comparison.json").exists():
            parts.append(f"### {name}\n\nNot run yet.")
            continue
        commits = {json.loads(run.read_text())["git_commit"][:7] for run in folder.glob("runs/*/summary.json")}
        part = f"### {name}\n\nThe cheap arm is `{cheap.partition(': ')[2]}`. Made at commit "
        part += f"{', '.join(sorted(commits))}; times of whole runs are those of a machine that did other work.\n\n"
        part += (folder / "comparison.md").read_text().strip()
        kept = kept_views(folder)
        if kept:
            part += "\n\n| arm | seeds | IoU kept | IoU random | kept pair is the one of lowest IoU | by chance |\n"
            part += "| --- | --- | --- | --- | --- | --- |\n"
            part += f"| {PAPER} |\n"
            for row in kept:
                cells = [f"{m:.3f} (range {s:.3f})" for m, s in zip(row["mean"], row["spread"], strict=True)]
                part += f"| {row['arm']} | {row['seeds']} | {' | '.join(cells)} |\n"
        parts.append(part.strip())
    return "\n\n".join(parts) + "\n"


def plot(out: Path, file: Path) -> None:
    """Differences from the plain arm with their intervals, of all comparisons, in one picture."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "evidence"
    figures = ("knn_top1", "linear_top1")
    shown = [name for name in COMPARISONS if (out / name / "comparison.json").exists()]
    fig, axes = plt.subplots(1, 2, figsize=(10, 1.2 + 0.9 * len(shown)), sharey=True, layout="constrained")
    kinds: dict[tuple[str, str], tuple[str, str]] = {
        ("hardest", "equal epochs"): ("o", "#b3261e"),
        ("hardest", "equal time"): ("s", "#b3261e"),
        ("cheap", "equal epochs"): ("o", "#1f5fa8"),
        ("cheap", "equal time"): ("s", "#1f5fa8"),
    }
    for axis, figure in zip(axes, figures, strict=True):
        for place, name in enumerate(shown):
            for row in json.loads((out / name / "comparison.json").read_text())["rows"]:
                key, difference = (row["arm"], row["kind"]), row["differences"].get(figure)
                if key in kinds and difference:
                    marker, colour = kinds[key]
                    y = place + 0.18 * (list(kinds).index(key) - 1.5)
                    width = 100 * difference["half_width"] if difference["half_width"] else None  # None: one seed
                    axis.errorbar(
                        100 * difference["mean"], y, xerr=width, fmt=marker, color=colour, capsize=3,
                        mfc=colour if marker == "o" else "white", label=f"{key[0]}, {key[1]}" if not place else None,
                    )  # fmt: skip
        axis.axvline(0, color="#666666", linewidth=1)
        axis.set_xlabel(f"{figure.replace('_', ' ')}: points from random, 95 % interval")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(shown)), shown)
    axes[0].invert_yaxis()
    if shown:
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    fig.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(fig)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(COMPARISONS), help="some of them, by name")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(COMPARISONS)
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: known are {', '.join(COMPARISONS)}")
    if args.write:
        plan, mark, rest = (HERE / "EVIDENCE.md").read_text().partition(MARK)
        assert mark, "EVIDENCE.md has lost the line that results come after"
        _, title, second = rest.partition(SECOND)
        (HERE / "EVIDENCE.md").write_text(f"{plan}{mark}\n\n{results(args.out)}\n{title}{second}")
        plot(args.out, HERE / "evidence.svg")
        return
    take_subset(args.packs, args.out / "cifar10-10000.parquet")
    codes = []
    for name in args.only.split(","):
        argv = command(name, args.packs, args.out) + ["--dry-run"] * args.dry_run
        print(f"$ hardviews {shlex.join(argv)}", flush=True)
        codes.append(hardviews(argv))
        if codes[-1] >= STOPPED:
            break
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
