"""Do hard views pay at equal time, where the plain method is flat? The runs behind the second part of EVIDENCE.md.

    python benchmarks/equal_time.py PACKS OUT --stage rate|flat|choose|confirm|curve [--only simclr-cifar,...]
    python benchmarks/equal_time.py PACKS OUT --write

PACKS is the folder with the packs (``cifar10``, ``imagenette224``), OUT where the runs go: plain runs of growing rate
for the stage ``rate`` and of growing length for ``flat``; for the others one comparison (``hardviews compare``) for
each method, pack and budget. The same command resumes. Comparisons may be started once for every core
(``OMP_NUM_THREADS=1 taskset -c N``), which share the runs out. ``--write`` puts tables and a plot of what is finished
into EVIDENCE.md and equal_time.svg.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from evidence import COMPARISONS, HERE, NARROW, NARROW_CIFAR, STOPPED

from hardviews.cli import main as hardviews

MARK = "<!-- What follows is written by equal_time.py --write. -->"
STAGES = ("rate", "flat", "choose", "confirm", "curve")
IMAGES = 2_000  # of each pack: trained on, and the voters of kNN
NETWORKS = {"cifar": NARROW_CIFAR, "imagenette": f"{NARROW} --backbone.stem imagenet --image-size 64"}
LOCALS = {"dino-imagenette": "--plan.local_size 32"}  # half the side of a global view, as on CIFAR-10
METHODS = ("simsiam", "simclr", "dino")
FACTORS = (1, 2, 4, 8, 16)  # of the first part's learning rate; epochs of such a run
RATE_EPOCHS = 60
LENGTHS = (60, 120, 240)  # epochs
FLAT = 0.01  # kNN accuracy: the plain method is flat at a length if twice as many epochs bring less
TRIED = "100,101"  # seeds of the stages rate (the first), flat and choose

# Arms of the stage choose. Each takes the time of `random`, which keeps as many of the same views and scores none.
PLAIN, CHEAP = "--policy random", "--score-resolution 0.5 --score-depth 0.5"
SCORED = {
    "hardest": "--scoring exact",
    "cheap": CHEAP,
    "unexpected": "--policy unexpected --scoring exact",
    "cheap-unexpected": f"--policy unexpected {CHEAP}",
}
TEACHER = "--score-network teacher --score-resolution 0.5"
ARMS = {
    "simsiam": SCORED | {
        "mild-crops": f"{PLAIN} --plan.scale 0.4,1",
        "strong-crops": f"{PLAIN} --plan.scale 0.08,1",
        "mild-colours": f"{PLAIN} --plan.brightness 0.2 --plan.contrast 0.2 --plan.saturation 0.2 --plan.hue 0.05",
        "strong-colours": f"{PLAIN} --plan.brightness 0.6 --plan.contrast 0.6 --plan.saturation 0.6 --plan.hue 0.15",
        "joint-crops": "--views 2 --crops joint_crop(0)",
    },
    "simclr": SCORED | {
        "mild-crops": f"{PLAIN} --plan.scale 0.2,1",
        "strong-crops": f"{PLAIN} --plan.scale 0.05,0.6",
        "mild-colours": f"{PLAIN} --plan.strength 0.25",
        "strong-colours": f"{PLAIN} --plan.strength 1",
        "joint-crops": "--views 2 --crops joint_crop(0)",
    },
    "dino": SCORED | {
        "cheap": TEACHER,
        "cheap-unexpected": f"--policy unexpected {TEACHER}",
        "learnable": "--policy learnable --scoring exact",
        "mild-crops": f"{PLAIN} --plan.scale 0.7,1",
        "strong-crops": f"{PLAIN} --plan.scale 0.25,1 --plan.local_scale 0.08,0.4",
        "mild-colours": f"{PLAIN} --plan.brightness 0.1 --plan.contrast 0.1 --plan.saturation 0.05 --plan.hue 0.025",
        "strong-colours": f"{PLAIN} --plan.brightness 0.4 --plan.contrast 0.4 --plan.saturation 0.2 --plan.hue 0.1",
        "joint-crops": "--views 1,1,2 --crops joint_crop(0)",
    },
}  # fmt: skip


def names() -> list[str]:
    return [f"{method}-{pack}" for method in METHODS for pack in NETWORKS]


# Of the stage rate: the factor of every method's rate. Of the stage flat: the budget of every method in epochs, on
# either pack. Of the stage choose: the arms of every method that are confirmed, the best that scores views last.
RATES: dict[str, int] = {"simsiam": 8, "simclr": 8}
BUDGETS: dict[str, int] = {}
CHOSEN: dict[str, tuple[str, ...]] = {}


def settings(name: str, factor: float | None = None) -> str:
    """Options of pretrain for a method and a pack: the first part's, with a batch of 128 and ``factor`` times its rate;
    by default the rate that was chosen."""
    method, pack = name.split("-")
    factor = RATES.get(method, 1) if factor is None else factor
    of_method = COMPARISONS[method][2].rpartition(NARROW_CIFAR)[2]
    before, rate, after = re.split(r"(?<=--lr )(\S+)", of_method)
    of_method = f"{before}{float(rate) * factor:g}{after}"
    given = " ".join([NETWORKS[pack], of_method, LOCALS.get(name, "")])
    return f"{given} --batch-size 128 --workers 0 --tensorboard false --in-memory on"


def data(pack: str, part: str, out: Path) -> str:
    return f"--data {out / f'{pack}-{part}.parquet'} --test-data {out / f'{pack}-{part}-test.parquet'}"


def commands(stage: str, only: list[str], out: Path) -> Iterator[list[str]]:
    """The command lines of a stage."""
    wanted = {"flat": RATES, "choose": BUDGETS, "confirm": CHOSEN, "curve": CHOSEN}
    if not wanted.get(stage, True):
        raise SystemExit(f"{stage}: the stage before it has not been decided yet")
    for name in only:
        method, pack = name.split("-")
        part = "choose" if stage in ("rate", "flat", "choose") else "confirm"
        common = shlex.split(f"{data(pack, part, out)} {settings(name)}")
        if stage == "rate" and pack == "cifar":
            yield from rates(name, data(pack, part, out), out / "rate" / name)
        elif stage == "flat" and pack == "cifar":
            yield from flat(common, out / "flat" / name)
        elif stage == "choose" and pack == "cifar":
            yield compared(common, BUDGETS[method], TRIED, ARMS[method], out / "choose" / name)
        elif stage == "confirm":
            yield compared(common, BUDGETS[method], "0,1,2,3,4", chosen(name), out / "confirm" / name)
        elif stage == "curve":
            best = dict([list(chosen(name).items())[-1]])
            for epochs in (BUDGETS[method] // 2, BUDGETS[method] * 2):
                yield compared(common, epochs, "0,1,2", best, out / "curve" / f"{name}-{epochs}")


def chosen(name: str) -> dict[str, str]:
    method = name.split("-")[0]
    return {arm: ARMS[method][arm] for arm in CHOSEN[method]}


def compared(common: list[str], epochs: int, seeds: str, arms: dict[str, str], out: Path) -> list[str]:
    own = f"--epochs {epochs} --seeds {seeds} --policies random --equal-epochs false --timed-steps 60 --out {out}"
    return ["compare", *common, *shlex.split(own), *(f"--arm={arm}: {more}" for arm, more in arms.items())]


def rates(name: str, images: str, out: Path) -> Iterator[list[str]]:
    """Plain runs of every rate."""
    for factor in FACTORS:
        own = f"--policy random --epochs {RATE_EPOCHS} --seed {TRIED.split(',')[0]} --knn-epochs {RATE_EPOCHS}"
        given = f"{images} {settings(name, factor)} {own} --telemetry 0 --out {out / f'times-{factor}'}"
        yield ["pretrain", *shlex.split(given)]


def flat(common: list[str], out: Path) -> Iterator[list[str]]:
    """Plain runs of two seeds, each twice as long as the one before, until that brings less than FLAT."""
    before = None
    for epochs in LENGTHS:
        runs = {seed: out / f"{epochs}-epochs-seed-{seed}" for seed in TRIED.split(",")}
        for seed, run in runs.items():
            if not (run / "summary.json").exists():
                own = f"--policy random --epochs {epochs} --seed {seed} --knn-epochs {epochs} --telemetry 0 --out {run}"
                yield ["pretrain", *common, *shlex.split(own)]
        found = [float(json.loads((run / "summary.json").read_text())["knn_top1"]) for run in runs.values()]
        now = sum(found) / len(found)
        if before is not None and now - before < FLAT:
            return
        before = now


def take_images(packs: Path, out: Path) -> None:
    """Of CIFAR-10 2,000 training and 5,000 test images for choosing, and as many others to confirm. Of the Imagenette
    pack, which nothing is chosen on, 2,000 images; the others are test images, since its own are few."""
    out.mkdir(parents=True, exist_ok=True)
    for split, count, ending in (("train", IMAGES, ""), ("test", 5_000, "-test")):
        table = pq.read_table(packs / "cifar10" / f"cifar10-jpeg-{split}.parquet")
        order = np.argsort(table["index"].to_numpy(), kind="stable")
        for place, part in enumerate(("choose", "confirm")):
            write(table.take(order[place * count : (place + 1) * count]), out / f"cifar-{part}{ending}.parquet")
    pack = packs / "imagenette224"
    table, test = (pq.read_table(pack / f"imagenette224-sub-{split}.parquet") for split in ("train", "val"))
    order = np.random.default_rng(0).permutation(len(table))  # in the file they lie class by class
    rest = table.take(order[IMAGES:])
    for part in ("choose", "confirm"):
        write(table.take(order[:IMAGES]), out / f"imagenette-{part}.parquet")
        both = pa.concat_tables([rest, test.select(rest.column_names).cast(rest.schema)])
        write(both, out / f"imagenette-{part}-test.parquet")


def write(table: pa.Table, file: Path) -> None:
    if not file.exists():
        part = file.with_suffix(".part")
        pq.write_table(table, part)
        part.replace(file)


def tried(out: Path, stage: str) -> str:
    """A table of the plain runs of ``rate`` or ``flat``: kNN top-1 in per cent, of one or two seeds."""
    columns = [f"times-{factor}" for factor in FACTORS] if stage == "rate" else [f"{n}-epochs" for n in LENGTHS]
    rows = [f"| {stage} | {' | '.join(column.replace('-', ' ') for column in columns)} |"]
    rows.append("| --- " * (len(columns) + 1) + "|")
    for method in METHODS:
        cells = []
        for column in columns:
            folder = out / stage / f"{method}-cifar"
            runs = [*folder.glob(f"{column}/summary.json"), *sorted(folder.glob(f"{column}-seed-*/summary.json"))]
            cells.append(", ".join(f"{100 * json.loads(run.read_text())['knn_top1']:.1f}" for run in runs))
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def results(out: Path) -> str:
    """Markdown of what is there of every stage."""
    parts = [
        f"### {stage}\n\nkNN top-1, %. Empty cells are not measured (yet).\n\n{tried(out, stage)}"
        for stage in STAGES[:2]
    ]
    if any(budgets(out, name) for name in names()):
        parts.append("![Accuracy against time, plain and hard](equal_time.svg)")
    for stage in STAGES[2:]:
        for folder in sorted((out / stage).glob("*/comparison.md")):
            commits = {
                json.loads(run.read_text())["git_commit"][:7] for run in folder.parent.glob("runs/*/summary.json")
            }
            head = f"### {stage}: {folder.parent.name}\n\nMade at commit {', '.join(sorted(commits))}."
            parts.append(f"{head}\n\n{folder.read_text().strip()}")
    return "\n\n".join(parts) + "\n"


def budgets(out: Path, name: str) -> list[dict[str, Any]]:
    """Rows of every comparison of a method and a pack, the shortest first."""
    folders = [*(out / "curve").glob(f"{name}-*"), out / "confirm" / name]
    found = [json.loads((one / "comparison.json").read_text()) for one in folders if (one / "comparison.json").exists()]
    return sorted(found, key=lambda one: int(one["plan"]["epochs"]))


def plot(out: Path, file: Path) -> None:
    """kNN accuracy against the baseline's time, of random and of the best arm, mean and standard error of the seeds."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "equal_time"
    shown = [name for name in names() if budgets(out, name)]
    columns = min(len(shown), 3) or 1
    rows = -(-len(shown) // columns) or 1
    fig, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, shown, strict=False):
        arms: dict[str, list[tuple[float, float, float]]] = {}
        for one in budgets(out, name):
            minutes = one["plan"]["epochs"] * one["plan"]["arms"]["random"]["seconds_per_epoch"] / 60
            for row in one["rows"]:
                figure = row["figures"]["knn_top1"]
                error = figure["std"] / max(figure["runs"], 1) ** 0.5 if figure["std"] is not None else 0.0
                arms.setdefault(row["arm"], []).append((minutes, 100 * figure["mean"], 100 * error))
        for arm, points in arms.items():
            x, y, error = np.array(points).T
            axis.errorbar(x, y, error, marker="o", capsize=3, label=arm)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("minutes of training")
        axis.set_ylabel("kNN top-1, %")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    fig.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(fig)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", choices=STAGES, default="rate")
    parser.add_argument("--only", default=",".join(names()), help="some of them, by name")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(names())
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: known are {', '.join(names())}")
    if args.write:
        plan, mark, _ = (HERE / "EVIDENCE.md").read_text().partition(MARK)
        assert mark, "EVIDENCE.md has lost the line that results come after"
        (HERE / "EVIDENCE.md").write_text(f"{plan}{mark}\n\n{results(args.out)}")
        if any(budgets(args.out, name) for name in names()):
            plot(args.out, HERE / "equal_time.svg")
        return
    take_images(args.packs, args.out)
    codes = [0]
    for argv in commands(args.stage, args.only.split(","), args.out):
        print(f"$ hardviews {shlex.join(argv)}", flush=True)
        if args.dry_run and args.stage == "flat":
            break  # whether there is a longer run depends on this one
        codes.append(hardviews(argv + ["--dry-run"] * args.dry_run))
        if codes[-1] >= STOPPED:
            break
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
