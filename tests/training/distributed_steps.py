"""Run by test_distributed.py in one or more processes: ten steps of a method without BN; what came out goes to a
file."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from hardviews import methods
from hardviews.commands.processes import part_ways
from hardviews.methods.base import Method
from hardviews.selection import policies
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch
from tests.methods.multi_crop import dino, ibot, tiny_vit
from tests.methods.tiny import TinyBackbone, without_bn

GLOBAL_BATCH, SIZE, STEPS = 12, 16, 10
SETTINGS: dict[str, dict[str, int]] = {
    "simsiam": {"dim": 16, "predictor_dim": 8},
    "simclr": {"dim": 16, "hidden_dim": 16},
    "byol": {"dim": 16, "hidden_dim": 16},
}
# With larger steps costs of different views come so close that rounding decides between them.
RATE, CLIP = 0.01, 0.03


def create_method(name: str) -> Method[Any]:
    torch.manual_seed(0)
    if name == "dino":
        return dino(tiny_vit)
    if name == "ibot":
        return ibot()
    method_class = methods.find(name)
    method = method_class(TinyBackbone(), method_class.default_plan(SIZE), **SETTINGS[name])
    without_bn(method)
    return method


def main(name: str, out: str) -> None:
    torch.set_num_threads(1)
    fabric = Fabric(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy="auto" if "WORLD_SIZE" not in os.environ else "ddp",
    )
    fabric.launch()
    method = create_method(name).double()
    for module in method.modules():  # float64 from the first layer on
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    groups = parameter_groups(method, 1e-4, True, method.constant_rate)
    optimizer = create_optimizer("sgd", groups, 0.9)
    gradients: list[list[torch.Tensor]] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    )
    step = Step(
        fabric, method, optimizer, Rates(RATE, 0.0, STEPS, 2), policies.named("hardest"), 0,
        steps=STEPS, steps_per_epoch=3, clip=CLIP,
    )  # fmt: skip
    share = GLOBAL_BATCH // fabric.world_size
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    losses: list[Any] = []
    kept: list[Any] = []
    for index in range(STEPS):
        generator = torch.Generator().manual_seed(index)
        # Coarse blocks of colour: views of noise would all look alike to the network, and their costs would tie.
        blocks = torch.randint(0, 256, (GLOBAL_BATCH, 4, 3, 3), generator=generator, dtype=torch.uint8)
        pictures = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        step.watch.start()
        report = step(ImageBatch.pack(list(pictures))[mine], index)
        losses.append(fabric.all_reduce(report.loss, reduce_op="mean"))
        kept.append(fabric.all_reduce(report.values["iou_kept"], reduce_op="mean"))
    everywhere = [fabric.all_gather(parameter.detach()) for parameter in method.parameters()]
    if fabric.is_global_zero:
        torch.save(
            {
                "losses": torch.stack(losses),
                "kept": torch.stack(kept),
                "gradients": gradients,
                "state": method.state_dict(),
                "everywhere": everywhere,
                "world": fabric.world_size,
            },
            Path(out),
        )
    if torch.distributed.is_initialized():
        fabric.barrier()
    part_ways()


if __name__ == "__main__":
    main(*sys.argv[1:])
