"""One whole training step, by the library and written out, for methods that can be scored combination by combination.

The loop written out shares with the library only how views are drawn and rendered, and the networks."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hardviews.selection import policies
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.selection.brute_force import every_combination

SEED, RATE, BATCH = 3, 0.1, 8


class Taken(NamedTuple):
    loss: float
    ids: Tensor  # [K, B]
    state: dict[str, Tensor]


def images() -> ImageBatch:
    blocks = torch.randint(0, 256, (BATCH, 4, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageBatch.pack(list(blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)))


def by_library(method: Any) -> Taken:
    """A step of plain SGD with hard views."""
    chosen: list[Tensor] = []
    optimizer = create_optimizer("sgd", parameter_groups(method, 0.0, True), 0.0)
    step = Step(
        Fabric(accelerator="cpu", devices=1), method, optimizer, Rates(RATE, RATE, 1, 0), policies.named("hardest"),
        SEED, steps=1, observe=lambda *seen: chosen.append(seen[3].ids),
    )  # fmt: skip
    step.watch.start()
    loss = step(images(), 0).loss.item()
    return Taken(loss, chosen[0], method.state_dict())


def by_hand(method: Any, cost: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor]) -> Taken:
    """The same, from what the paper says of kept views.

    Args:
        method: with an encoding of one field.
        cost: projections of kept views ``[K, D]`` of one image to its loss.
        loss: projections of kept views ``[K, B, D]`` to the loss of training.
    """
    plan, batch = method.plan, images()
    drawn = draw(plan, batch.size, stream(SEED, "views", 0))
    candidates = render(batch, drawn, plan)
    with torch.no_grad():
        projections = deepcopy(method)(candidates)[0]  # of a copy, whose BN statistics move
    combos = every_combination(plan)
    hardest = [
        combos[torch.stack([cost(projections[combo, image]) for combo in combos]).argmax()] for image in range(BATCH)
    ]
    ids = torch.stack(hardest, 1)
    kept = [torch.stack([candidates[int(row[image])][image] for image in range(BATCH)]) for row in ids]
    value = loss(method(kept)[0])
    value.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in method.parameters():
            parameter -= RATE * parameter.grad
    return Taken(value.item(), ids, method.state_dict())


def assert_the_same(ours: Taken, theirs: Taken) -> None:
    assert torch.equal(ours.ids, theirs.ids)
    assert abs(ours.loss - theirs.loss) < 1e-5 * max(1, abs(theirs.loss))
    torch.testing.assert_close(ours.state, theirs.state, atol=1e-5, rtol=1e-5)
