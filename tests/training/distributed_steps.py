"""Run by test_distributed.py, alone or as one of several processes: ten steps of methods without BN, in float32; what
came out goes to a file."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews import methods
from hardviews.launch.environment import started
from hardviews.launch.processes import destroy_process_group
from hardviews.methods.base import Method
from hardviews.selection import policies
from hardviews.selection.hard_views import Choice
from hardviews.selection.scoring import Scoring
from hardviews.selection.search import every_combination, totals
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.schedules import FULL_SIZE, ResolutionSchedule
from hardviews.training.scoring import early_exit
from hardviews.training.step import Step
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from tests.methods.multi_crop import dino, dinov2, ibot, small, tiny_vit
from tests.methods.tiny import TinyBackbone, without_bn

GLOBAL_BATCH, SIZE, STEPS = 12, 16, 10
SETTINGS: dict[str, dict[str, int]] = {
    "simsiam": {"dim": 16, "predictor_dim": 8},
    "simclr": {"dim": 16, "hidden_dim": 16},
    "byol": {"dim": 16, "hidden_dim": 16},
    "mocov3": {"dim": 16, "hidden_dim": 16},
    "swav": {"dim": 16, "hidden_dim": 16, "prototypes": 10, "queue": 30, "queue_from": 1},
    "vicreg": {"dim": 16, "hidden_dim": 16},
    "lejepa": {"dim": 16, "hidden_dim": 16, "directions": 64},
}
# With larger steps costs of different views come so close that rounding decides between them.
RATE, CLIP = 0.01, 0.03


def create_method(name: str) -> Method[Any]:
    torch.manual_seed(0)
    if name == "dino":
        return dino(tiny_vit)
    if name == "ibot":
        return ibot()
    if name == "dinov2":
        return dinov2(gram_weight=1.0, gram_from=1)
    method_class = methods.find(name)
    plan = method_class.default_plan(SIZE)
    method = method_class(TinyBackbone(), small(plan) if name == "swav" else plan, **SETTINGS[name])
    without_bn(method)
    return method


def create_fabric() -> Fabric:
    devices, nodes = started()
    many = devices * nodes > 1
    fabric = Fabric(accelerator="cpu", devices=devices, num_nodes=nodes, strategy="ddp" if many else "auto")
    fabric.launch()
    return fabric


def ten_steps(fabric: Fabric, name: str) -> dict[str, Any]:
    """Losses, gradients, statistics, choices and what they cost of ten steps, and the state after them.

    Args:
        name: a method's, and the policy's if it is not ``hardest``: ``"simsiam unexpected"``; or ``"ibot growing"``,
            whose views are small in half of the steps; ``"dino once"``, whose candidates are encoded once; ``"dino
            early"``, whose candidates pass half of the backbone.
    """
    name, _, policy = name.partition(" ")
    way = policy if policy in ("growing", "once", "early") else ""
    method = create_method(name)
    learning = policies.named("hardest" if way else policy or "hardest")
    groups = parameter_groups(method, 1e-4, True, method.constant_rate)
    optimizer = create_optimizer("sgd", groups, 0.9)
    gradients: list[list[Tensor]] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    )
    combos = every_combination(method.plan, 10_000)
    assert combos is not None
    chosen: list[Tensor] = []
    costs: list[Tensor] = []

    def everyones(own: Tensor) -> Tensor:
        """``[X, B]`` of every process as ``[X, G]``."""
        found = fabric.all_gather(own.contiguous())
        assert isinstance(found, Tensor)
        return torch.cat(list(found.view(fabric.world_size, *own.shape)), -1)

    def observe(step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        assert choice.costs is not None
        chosen.append(everyones(choice.ids))
        costs.append(everyones(totals(choice.costs, combos)))

    step = Step(
        fabric, method, optimizer, Rates(RATE, 0.0, STEPS, 2), learning, 0,
        steps=STEPS, steps_per_epoch=3, clip=CLIP, observe=observe,
        scoring=Scoring(once=way == "once", depth=0.5 if way == "early" else 1.0),
        resolution=ResolutionSchedule(0.5, STEPS // 2) if way == "growing" else FULL_SIZE,
    )  # fmt: skip
    if step.scorer.exit:
        step.scorer.exit.steps = early_exit.STEPS - 3  # exits from the fourth step on
    share = GLOBAL_BATCH // fabric.world_size
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    losses: list[Any] = []
    values: list[dict[str, Any]] = []
    for index in range(STEPS):
        generator = torch.Generator().manual_seed(index)
        # Coarse blocks of colour: views of noise would all look alike to the network, and their costs would tie.
        blocks = torch.randint(0, 256, (GLOBAL_BATCH, 4, 3, 3), generator=generator, dtype=torch.uint8)
        pictures = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        step.watch.start()
        report = step(ImageBatch.pack(list(pictures))[mine], index)
        losses.append(fabric.all_reduce(report.loss, reduce_op="mean"))
        values.append({key: fabric.all_reduce(value, reduce_op="mean") for key, value in report.values.items()})
    learned = {name: value for module in step.learners.values() for name, value in module.state_dict().items()}
    return {
        "losses": torch.stack(losses),
        "values": values,
        "chosen": torch.stack(chosen),
        "costs": torch.stack(costs),
        "gradients": gradients,
        "state": method.state_dict() | learned,
        "everywhere": [fabric.all_gather(parameter.detach()) for parameter in method.parameters()],
        "world": fabric.world_size,
    }


def main(out: str, *names: str) -> None:
    torch.set_num_threads(1)
    fabric = create_fabric()
    found = {name: ten_steps(fabric, name) for name in names}
    if fabric.is_global_zero:
        torch.save(found, Path(out))
    fabric.barrier()
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
