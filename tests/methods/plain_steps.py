"""Training steps whose views a test sees, to compare them with a loop of its own."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews.methods.base import Method
from hardviews.selection import policies
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream

RATE, MOMENTUM, DECAY, PER_EPOCH = 0.05, 0.9, 1e-3, 2


def steps_of(method: Method[Any], steps: int) -> Iterator[tuple[int, list[Tensor], Tensor | None, float]]:
    """Trains a method in float64 by SGD with momentum at a constant rate, ``PER_EPOCH`` steps an epoch.

    Yields:
        After every step: its number, its views, their masks, and its loss.
    """
    assert not method.plan.selects
    method.double()
    for name, network in method.named_modules():  # views are float32
        if name.rpartition(".")[2] == "backbone":
            network.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
            if hasattr(network, "patch_embed"):  # which is called without ``forward``
                network.patch_embed.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    groups = parameter_groups(method, DECAY, decay_bias_and_norm=True)
    step = Step(
        Fabric(accelerator="cpu", devices=1), method, create_optimizer("sgd", groups, MOMENTUM),
        Rates(RATE, RATE, steps, 0), policies.named("hardest"), 3, steps=steps, steps_per_epoch=PER_EPOCH,
    )  # fmt: skip
    for index in range(steps):
        blocks = torch.randint(0, 256, (6, 8, 8, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        images = ImageBatch.pack(list(blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)))
        step.watch.start()
        loss = step(images, index).loss.item()
        drawn = draw(method.plan, images.size, stream(3, "views", index))
        yield index, [view.double() for view in render(images, drawn, method.plan)], drawn.mask, loss


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """The same optimizer for the test's own loop."""
    return torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
