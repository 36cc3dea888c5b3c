"""Peak memory of scoring and of a step with hard views, against that of the same step without them.

    python benchmarks/memory.py [--device cuda] [--batch 8] [--json FILE]

DINO and iBOT, ViT-S/16, 2+2 global candidates of 224 px, and 16 local ones of 96 px for DINO; 65,536 and 8,192
prototypes; bf16 autocast. Each in a process of its own: peak resident memory above what the process held before the
first step, on a GPU the peak that torch allocated.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = ("without", "scoring", "with")


def measure(name: str, part: str, device: str, batch: int) -> float:
    """MiB above idle of two steps: without hard views, of scoring alone, with hard views."""
    import torch
    from lightning_fabric import Fabric

    from hardviews import methods
    from hardviews.networks.backbones import create_backbone
    from hardviews.selection import policies
    from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
    from hardviews.training.step import Step
    from hardviews.views.draw import draw
    from hardviews.views.images import ImageBatch
    from hardviews.views.streams import stream

    torch.manual_seed(0)
    method_class = methods.find(name)
    plan = method_class.default_plan(224)
    plan = plan if part != "without" else plan.without_selection()
    method: Any = method_class(create_backbone("vit_small_patch16_224", 224), plan)
    method.plan = type(plan)(plan.slots, multiple=16)
    fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed")
    optimizer = create_optimizer("adamw", parameter_groups(method, 0.04, False), 0.0)
    step = Step(fabric, method, optimizer, Rates(1e-5, 0.0, 10, 0), policies.named("hardest"), 0, steps=10, clip=3.0)
    images = ImageBatch.pack(list(torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8))).to(fabric.device)
    # What a run holds at any time: weights, gradients, moments.
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    idle = held(device)
    for index in range(2):
        step.watch.start()
        if part == "scoring":
            views = draw(method.plan, images.size, stream(0, "views", index)).to(fabric.device)
            step._choose(images, views, index, 0)
        else:
            step(images, index)
    return held(device) - idle


def held(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs=2, metavar=("METHOD", "PART"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        name, part = args.only
        print(measure(name, part, args.device, args.batch))
        return
    figures: dict[str, dict[str, float]] = {}
    for name in ("dino", "ibot"):
        figures[name] = {}
        for part in PARTS:
            command = [
                sys.executable,
                __file__,
                "--device",
                args.device,
                "--batch",
                str(args.batch),
                "--only",
                name,
                part,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[name][part] = float(done.stdout.split()[-1])
        plain = figures[name]["without"]
        print(f"{name}, batch {args.batch}, {args.device}: MiB above idle, and ratio to the step without hard views")
        for part, value in figures[name].items():
            print(f"  {part:10} {value:8.0f}  {value / plain:.2f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
