"""What a training step with smaller views takes, against one with views of full size, plain and with hard views.

    python benchmarks/resolution.py [--device cuda] [--resolutions 0.75,0.5] [--batch 64] [--json FILE]

SimCLR with two networks: the narrow ResNet of ``evidence.py`` at 32 px (and its options), and ViT-S/16 at 224 px, an
eighth of the batch. Random pictures of 32 and 256 px in memory; rendering, exact scoring and optimizer included. The
last column is the time of a run whose views are that small for 75 % of its steps, against a run at full size.
"""

import argparse
import shlex
from functools import partial

import torch
from evidence import NARROW_CIFAR, SIMCLR
from side_by_side import arguments, ratios, side_by_side, table, write

from hardviews.commands.pretrain import parse
from hardviews.data.sources.shapes import Shapes
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch

NETWORKS = {
    "narrow ResNet, 32 px": (1, 32, f"{NARROW_CIFAR} {SIMCLR} --image-size 32"),
    "ViT-S/16, 224 px": (8, 256, f"--backbone vit_small_patch16_224 {SIMCLR} --image-size 224"),
}
PART = 0.75  # of the run that is small


def created(args: argparse.Namespace, network: str, resolution: float, views: int) -> Step:
    less, _, line = NETWORKS[network]
    more = f"--views {views} --scoring exact --batch-size {args.batch // less} --accelerator {args.device.type}"
    options, _ = parse(shlex.split(f"--data shapes:16 {line} {more} --train-resolution {resolution}"))
    options, method = resolve_defaults(options, Shapes(count=16))
    return create_step(options, method, create_fabric(options), steps_per_epoch=1000)


def take(step: Step, images: ImageBatch) -> None:
    step.watch.start()
    step(images, 0)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resolutions", default="0.75,0.5")
    parser.add_argument("--networks", default=",".join(map(str, range(len(NETWORKS)))), help="by number, from 0")
    args = parser.parse_args()
    small = [float(resolution) for resolution in args.resolutions.split(",")]
    figures = {}
    for network in [list(NETWORKS)[int(number)] for number in args.networks.split(",")]:
        rows = []
        less, side, _ = NETWORKS[network]
        pixels = torch.randint(0, 256, (args.batch // less, side, side, 3), dtype=torch.uint8)
        images = ImageBatch.pack(list(pixels)).to(args.device)
        for kind, views in (("plain", 2), ("hard views", 4)):
            steps = {resolution: created(args, network, resolution, views) for resolution in (1.0, *small)}
            runs = {str(resolution): partial(take, step, images) for resolution, step in steps.items()}
            found = ratios(side_by_side(runs, args.repeats, args.device), "1.0")
            figures[f"{network}, {kind}"] = found
            for resolution, v in found.items():
                columns = [f"{v[key]:.3f}" for key in ("seconds", "ratio", "lowest", "highest")]
                whole = 1 - PART + PART * v["ratio"]
                rows.append([f"{kind}, resolution {resolution}", *columns, f"{whole:.3f}"])
        table(f"{network}, {args.device}", ["step", "seconds", "ratio", "lowest", "highest", "whole run"], rows)
    write(args.json, figures)


if __name__ == "__main__":
    main()
