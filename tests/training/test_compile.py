"""torch.compile with selection: the same losses, and no graph after the first steps."""

from typing import Any

import pytest
import timm
import torch
from lightning_fabric import Fabric
from torch._dynamo.utils import counters

from hardviews.methods.simsiam import SimSiam
from hardviews.networks.backbones import compile_backbones
from hardviews.selection import policies
from hardviews.selection.scoring import Scoring
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.schedules import FULL_SIZE, ResolutionSchedule
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch
from tests.methods.multi_crop import dino, ibot, tiny_vit


def created(name: str) -> Any:
    torch.manual_seed(0)
    if name == "dino":
        return dino(lambda: tiny_vit(drop_path_rate=0.1))
    if name == "ibot":
        return ibot()
    backbone = timm.create_model("resnet18", num_classes=0, channels=[8, 8, 8, 8], layers=[1, 1, 1, 1])
    return SimSiam(backbone, SimSiam.default_plan(64), dim=16, predictor_dim=8)


@pytest.mark.parametrize(
    ("name", "resolution"),
    [("simsiam", FULL_SIZE), ("dino", FULL_SIZE), ("ibot", FULL_SIZE), ("dino", ResolutionSchedule(0.5, 2))],
)
def test_no_graph_after_the_first_steps(name: str, resolution: ResolutionSchedule) -> None:
    """BN's flags, the teacher, two sizes of view, scoring small and without gradient: all known after two steps, and
    after two more where views grow."""
    torch._dynamo.reset()
    counters.clear()
    generator = torch.Generator().manual_seed(0)
    pictures = ImageBatch.pack(list(torch.randint(0, 256, (4, 32, 32, 3), generator=generator, dtype=torch.uint8)))
    losses: dict[bool, list[float]] = {}
    graphs = 0
    for compiled in (False, True):
        method = created(name)
        if compiled:
            compile_backbones(method, backend="eager")  # the same frames, guards and graphs, without the compiler
        optimizer = create_optimizer("adamw", parameter_groups(method, 0.0, True, method.constant_rate), 0.0)
        step = Step(
            Fabric(accelerator="cpu", devices=1), method, optimizer, Rates(1e-4, 0.0, 6, 0),
            policies.named("hardest"), 3, steps=6, scoring=Scoring(resolution=0.5),
            resolution=resolution,
        )  # fmt: skip
        losses[compiled] = []
        for number in range(6):
            step.watch.start()
            losses[compiled].append(step(pictures, number).loss.item())
            if number == resolution.full_from + 1:
                graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert counters["stats"]["unique_graphs"] == graphs
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
