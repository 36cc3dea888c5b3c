"""How many kernels a step launches on a GPU, counted without one.

    PYTHONPATH=. python benchmarks/launches.py [--methods simsiam,dino] [--batch 128] [--json FILE]

On the fake CUDA device of ``tests/device``: an operation that torch hands to the device counts as one kernel, views and
allocations as none. What one call of a library launches besides (cuDNN, foreach operations over very many tensors) is
not seen. SimSiam with a ResNet-50 and DINO with a ViT-S/16 and 2 + 8 crops, as published, in bf16.

1. Rendering: the candidates and the kept views, of pictures of several sizes and of one, per slot of the plan.
2. The step without hard views, given its views, beside the bare loop of ``step.py``, given the same.
3. The whole step with hard views, and where its kernels come from.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from step import bare_dino, bare_simsiam

from hardviews import methods
from hardviews.networks.backbones import create_backbone, patch_size
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.device.fake_cuda import CUDA, FakeCuda, pretending
from tests.device.steps import batch_of, create_step, take

BACKBONES = {"simsiam": "resnet50", "dino": "vit_small_patch16_224"}
MIXED, EQUAL = ((375, 500), (500, 375), (333, 500), (256, 256)), ((256, 256),)


def created(name: str, plain: bool) -> Any:
    kind = methods.find(name)
    backbone = create_backbone(BACKBONES[name], 224)
    plan = replace(kind.default_plan(224), multiple=patch_size(backbone))
    return kind(backbone, plan.without_selection() if plain else plan)


def rendering(mode: FakeCuda, plan: Any, images: ImageBatch) -> int:
    """Kernels of rendering all of a plan's views; one rendering before it fills what is kept on the device."""
    with mode:
        for _ in range(2):
            there = images.to(CUDA)
            mode.found.clear()
            render(there, draw(plan, images.size, stream(0, "views", 0)), plan)
    return mode.found.launches.total()


def given_views(mode: FakeCuda, name: str, images: ImageBatch) -> tuple[int, int]:
    """Kernels of the step without hard views, and of the bare loop, both given their views."""
    method = created(name, plain=True)
    views = [torch.empty(len(images), 3, slot.size, slot.size) for slot in method.plan.slots for _ in range(slot.keep)]
    with mode:
        views = [view.to(CUDA) for view in views]
        bare = (bare_dino if name == "dino" else bare_simsiam)(
            method, lambda: torch.autocast("cuda", torch.bfloat16), CUDA
        )
        for _ in range(2):
            mode.found.clear()
            bare(views)
    of_bare = mode.found.launches.total()
    step = create_step(method, "bf16-mixed", optimizer="adamw")
    with patch("hardviews.training.step.render", lambda *_: views):
        take(step, mode, images)
    return mode.found.launches.total(), of_bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="simsiam,dino")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    everything: dict[str, Any] = {"batch": args.batch}
    for name in args.methods.split(","):
        table = Table(title=f"{name}, {BACKBONES[name]}, batch {args.batch}", title_justify="left")
        for column in ("", "kernels", "per slot, or ratio"):
            table.add_column(column)
        figures: dict[str, Any] = {}
        with pretending() as mode:
            plan = created(name, plain=False).plan
            for kind, sizes in (("several sizes", MIXED), ("one size", EQUAL)):
                for what, some in (("candidates", plan), ("kept views", plan.without_selection())):
                    count = rendering(mode, some, batch_of(args.batch, sizes))
                    figures[f"render {what}, {kind}"] = count
                    table.add_row(f"rendering {what}, {kind}", str(count), f"{count / len(plan.slots):.0f}")
            ours, bare = given_views(mode, name, batch_of(args.batch, EQUAL))
            figures |= {"step_given_views": ours, "bare_loop": bare, "ratio": ours / bare}
            table.add_row("bare loop, views given", str(bare), "")
            table.add_row("step without hard views, views given", str(ours), f"{ours / bare:.2f}")
            take(create_step(created(name, plain=False), "bf16-mixed"), mode, batch_of(args.batch, EQUAL))
            places: Counter[str] = Counter()
            for (_, place), count in mode.found.launches.items():
                places[place.rpartition(":")[0] or "backward, optimizer"] += count
            figures |= {"whole_step": places.total(), "places": dict(places)}
            table.add_row("whole step with hard views", str(places.total()), "")
            for place, count in places.most_common(12):
                table.add_row(f"  of these {place}", str(count), "")
        Console().print(table)
        everything[name] = figures
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
