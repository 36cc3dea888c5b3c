"""Images per second of a two-view method with a large ViT, the share of the device's peak it reaches, and what hard
views cost in time beside what they cost in operations.

    python benchmarks/throughput.py [--device cuda] [--batch 256] [--backbone vit_small_patch16_224] [--size 224]
        [--peak 989e12] [--json FILE]

SimCLR in bf16 with torch.compile unless ``--no-compile``, from random pictures of 256 x 256 px on the device;
rendering, scoring and optimizer included. Operations are those that torch's ``FlopCounterMode`` counts in one step, run
without compilation (products and convolutions, a multiply-add as two). ``--peak`` is the device's number of them per
second in bf16, as its vendor states it for dense matrices.

Five steps in a row are timed as one, between two synchronisations: training does not wait for the device after a step
either, so what the host does for one step overlaps what the device does for the last.
"""

import argparse
from functools import partial

from side_by_side import arguments, ratios, side_by_side, table, write
from step import pictures
from torch.utils.flop_counter import FlopCounterMode

from hardviews.data.sources.shapes import Shapes
from hardviews.networks.backbones import compile_backbones
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.training.stopwatch import Stopwatch
from hardviews.views.images import ImageBatch

HALF = Scoring(resolution=0.5)
IN_A_ROW = 5  # steps between two synchronisations


def created(args: argparse.Namespace, scoring: Scoring | None) -> Step:
    """A step that scores so, or without hard views."""
    options = PretrainOptions(
        data="shapes", method={"name": "simclr"}, image_size=args.size, batch_size=args.batch, optimizer="adamw",
        lr=1e-4, warmup_epochs=0, epochs=1, backbone=BackboneOptions(args.backbone), accelerator=args.device.type,
        scoring="exact", precision="bf16-mixed",
    )  # fmt: skip
    options, method = resolve_defaults(options, Shapes(count=args.batch))
    if scoring is None:
        method.plan = method.plan.without_selection()
    fabric = create_fabric(options)
    step = create_step(options, method, fabric, steps_per_epoch=1000)
    step.scorer = Scorer(fabric, step.method, scoring or EXACT)
    return step


def take(step: Step, images: ImageBatch) -> None:
    step.watch.start()
    step(images, 0)


def take_several(step: Step, images: ImageBatch) -> None:
    for _ in range(IN_A_ROW):
        take(step, images)


def phases(step: Step, images: ImageBatch) -> dict[str, float]:
    """Seconds of a step by part: render, score, train."""
    take(step, images)
    return Stopwatch.seconds(step.watch.marks())


def operations(step: Step, images: ImageBatch) -> int:
    with FlopCounterMode(display=False) as counter:
        take(step, images)
    return int(counter.get_total_flops())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--peak", type=float, help="operations per second that the device's vendor states")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    images = pictures(args.batch, args.device)
    steps = {"without": created(args, None), "exact": created(args, EXACT), "resolution 0.5": created(args, HALF)}
    counted = {name: operations(step, images) for name, step in steps.items()}
    if args.compile:
        for step in steps.values():
            compile_backbones(step.method)
    # Compiled in the first of the untimed steps, settled in the next.
    rows_of_steps = {name: partial(take_several, step, images) for name, step in steps.items()}
    times = side_by_side(rows_of_steps, args.repeats, args.device)
    found = ratios({name: [spent / IN_A_ROW for spent in each] for name, each in times.items()}, "without")
    for name, step in steps.items():
        found[name] |= {f"seconds_{part}": spent for part, spent in phases(step, images).items()}
    rows = []
    for name, v in found.items():
        v["images_per_second"] = args.batch / v["seconds"]
        v["operations"] = counted[name]
        v["operations_ratio"] = counted[name] / counted["without"]
        v["share_of_peak"] = counted[name] / v["seconds"] / args.peak if args.peak else float("nan")
        keys = ("images_per_second", "ratio", "lowest", "highest", "operations_ratio", "share_of_peak")
        rows.append([name, *(f"{v[key]:.3f}" if key != keys[0] else f"{v[key]:,.1f}" for key in keys)])
    table(
        f"SimCLR, {args.backbone} at {args.size} px, batch {args.batch}, {args.device}, compiled: {args.compile}",
        ["step", "images/s", "ratio", "lowest", "highest", "ratio of operations", "share of peak"],
        rows,
    )
    parts = ("seconds_render", "seconds_score", "seconds_train")
    table(
        "milliseconds by part of a step",
        ["step", "render", "score", "forward, backward, optimizer"],
        [[name, *(f"{1000 * v.get(part, 0.0):.1f}" for part in parts)] for name, v in found.items()],
    )
    write(args.json, {"device": str(args.device), "batch": args.batch, "compiled": args.compile, "steps": found})


if __name__ == "__main__":
    main()
