"""What a step with hard views should take on machines that are not here, from counted operations.

    python benchmarks/predict.py [--measured STEP.json] [--tflops 400] [--gigabytes 50] [--json FILE]

The model: a step takes as long as its floating-point operations, counted by torch on shapes alone, at a rate that is
the same for scoring and for training: 1 forward per view scored, 3 (forward and backward) per view trained, 1 per view
that a teacher encodes. Prototypes, optimizer and rendering are left out. Its ratios are printed beside those that
``step.py`` measured (--measured its --json).

Then for N GPUs, each with its own batch: seconds of computation at --tflops that are reached (not the peak), the
bytes a process sends a step (the backbone's gradients in float32 by a ring all-reduce, twice; SimCLR's gathered
embeddings) and their seconds at --gigabytes per second. Heads are left out, DINO's of 22 million weights too. Selection
itself sends SimCLR's embeddings of all candidates, V times B times D numbers more than those of the K kept views, and
the statistics of synchronised BN, two numbers a channel and layer; else nothing.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from side_by_side import arguments, table, write
from torch.utils.flop_counter import FlopCounterMode
from ways import WAYS

from hardviews.methods import find
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.views.plan import ViewPlan, whole_patches

CASES = {
    "dino": ("vit_small_patch16_224", 224),
    "ibot": ("vit_small_patch16_224", 224),
    "simsiam": ("resnet18", 128),
    "simclr": ("resnet18", 128),
}


@lru_cache
def flops(backbone: str, side: int) -> float:
    """Of one forward of one image."""
    vit = backbone.startswith("vit")
    side = whole_patches(side, 16 if vit else 1)
    with torch.device("meta"):
        sized: dict[str, Any] = {"img_size": side} if vit else {}
        network = timm.create_model(backbone, num_classes=0, **sized).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, side, side))
    return float(counter.get_total_flops())


@dataclass
class Work:
    """Operations per image and step."""

    train: float
    teacher: float
    score: float


def work(method: str, backbone: str, plan: ViewPlan, way: Scoring | None) -> Work:
    """Of a method with a way of scoring, or without hard views."""
    has_teacher = method in ("dino", "ibot", "byol")
    train = sum(3 * slot.keep * flops(backbone, slot.size) for slot in plan.slots)
    teacher = sum(slot.keep * flops(backbone, slot.size) for slot in plan.slots if slot.target) if has_teacher else 0.0
    if way is None:
        return Work(train, teacher, 0.0)

    def candidates(targets_only: bool) -> float:
        slots = [slot for slot in plan.slots if slot.target or not targets_only]
        return sum(slot.draw * flops(backbone, round(slot.size * way.resolution)) for slot in slots)

    score = candidates(targets_only=way.network == "teacher_targets")
    if has_teacher and way.network == "student":
        score += candidates(targets_only=True)
    reused = has_teacher and way.reuse and way.resolution == 1
    return Work(train, 0.0 if reused else teacher, score / way.every)


def total(parts: Work) -> float:
    return parts.train + parts.teacher + parts.score


def parameters(backbone: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(backbone, num_classes=0).parameters())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--measured", type=Path, help="what step.py wrote with --json")
    parser.add_argument("--tflops", type=float, default=400, help="reached by one GPU")
    parser.add_argument("--gigabytes", type=float, default=50, help="per second and GPU, between GPUs")
    parser.add_argument("--batch", type=int, default=64, help="images per GPU")
    args = parser.parse_args()
    measured: dict[str, Any] = json.loads(args.measured.read_text()) if args.measured else {}
    figures: dict[str, Any] = {"ratios": {}, "machines": []}
    rows = []
    for method, (backbone, size) in CASES.items():
        plan = find(method).default_plan(size)
        plain = total(work(method, backbone, plan, None))
        for name, way in WAYS.items():
            alone = method in ("simsiam", "simclr")
            if min(way.token_keep, way.depth) < 1 or (alone and (way.network != "student" or not way.reuse)):
                continue
            ratio = total(work(method, backbone, plan, way)) / plain
            found = measured.get(method, {}).get("with_hard_views", {}).get(name)
            figures["ratios"][f"{method}, {name}"] = {"predicted": ratio, "measured": found and found["ratio"]}
            rows.append([f"{method}, {backbone}, {name}", f"{ratio:.2f}", f"{found['ratio']:.2f}" if found else ""])
    table("step with hard views / step without", ["", "predicted", "measured"], rows)

    rows = []
    for method, backbone in (
        ("dino", "vit_small_patch16_224"), ("dino", "vit_base_patch16_224"), ("dino", "vit_large_patch16_224"),
        ("simclr", "resnet50"),
    ):  # fmt: skip
        plan = find(method).default_plan(224)
        for gpus in (8, 64, 512):
            row: dict[str, Any] = {"method": method, "backbone": backbone, "gpus": gpus}
            for name, chosen in (("without", None), ("exact", EXACT), ("half", Scoring(resolution=0.5))):
                compute = total(work(method, backbone, plan, chosen)) * args.batch / (args.tflops * 1e12)
                views = (plan.keep if chosen is None else plan.draw + plan.keep) if method == "simclr" else 0
                gathered = views * args.batch * 128 * 4 * (gpus - 1)  # received from every other process
                sent = 2 * 4 * parameters(backbone) * (gpus - 1) / gpus + gathered
                row[name] = {
                    "compute_s": compute, "megabytes": sent / 1e6,
                    "network_s": sent / (args.gigabytes * 1e9),
                }  # fmt: skip
            figures["machines"].append(row)
            times = [max(row[k]["compute_s"], row[k]["network_s"]) for k in ("without", "exact", "half")]
            rows.append(
                [f"{method}, {backbone}", str(gpus)]
                + [f"{1e3 * t:.0f}" for t in times]
                + [f"{t / times[0]:.2f}" for t in times[1:]]
                + [f"{row[k]['megabytes']:.0f}" for k in ("without", "exact")]
            )
    table(
        f"{args.batch} images a GPU, {args.tflops:g} TFLOP/s and {args.gigabytes:g} GB/s reached; the longer of "
        "computing and sending, which overlap",
        ["", "GPUs", "ms", "exact", "half", "ratio exact", "ratio half", "MB", "MB exact"],
        rows,
    )
    write(args.json, figures)


if __name__ == "__main__":
    main()
