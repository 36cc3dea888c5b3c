"""Steps and evaluations on the fake device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hardviews import methods
from hardviews.data.sources import open_source
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Preprocessing
from hardviews.networks.backbones import create_backbone, patch_size
from hardviews.selection.policies import named
from hardviews.selection.scoring import Scoring
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step, StepReport
from hardviews.views.images import ImageBatch
from tests.device.fake_cuda import CUDA, Fabric, FakeCuda, onto_cuda

VITS = ("dino", "ibot", "dinov2")
SMALL: dict[str, dict[str, Any]] = {
    "simsiam": {"dim": 32, "predictor_dim": 16},
    "simclr": {"dim": 16, "hidden_dim": 32},
    "byol": {"dim": 16, "hidden_dim": 32},
    "mocov3": {"dim": 16, "hidden_dim": 32},
    "swav": {"dim": 16, "hidden_dim": 32, "prototypes": 64, "queue": 24, "queue_from": 1},
    "vicreg": {"dim": 16, "hidden_dim": 32},
    "lejepa": {"dim": 16, "hidden_dim": 32},  # with as many directions as in a run, which are copied at every step
    "dino": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16},
    "ibot": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16},
    "dinov2": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "gram_weight": 1.0, "gram_every": 0.1},
}
SIZES = ((40, 52), (64, 48), (33, 33), (50, 80))
NUMBER = 10  # of the step that is judged: DINO's first epoch, whose last layer is frozen, is over


def network_of(name: str) -> Any:
    """A small backbone on the CPU, of this kind."""
    given: dict[str, Any] = {"channels": [8, 8, 16, 16]}
    if name.startswith("vit"):
        given = {"patch_size": 8, "depth": 2, "drop_path_rate": 0.1}
    return create_backbone(name, 32, **given)


def created(name: str) -> Any:
    """A small method of either kind of network, on the CPU; of one that is not in ``SMALL``, with its own sizes."""
    kind, vit = methods.find(name), name in VITS
    backbone = network_of("vit_tiny_patch16_224" if vit else "resnet10t")
    plan = kind.default_plan(32, **({"locals": 2, "local_size": 16} if vit else {}))
    return kind(backbone, replace(plan, multiple=patch_size(backbone)), **SMALL.get(name, {}))


def batch_of(count: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> ImageBatch:
    pictures = [torch.randint(0, 256, (*sizes[i % len(sizes)], 3), dtype=torch.uint8) for i in range(count)]
    return ImageBatch.pack(pictures)


def create_step(
    method: Any, precision: str, policy: str = "hardest", optimizer: str | None = None, parts: int = 1,
    scoring: Scoring | None = None, **options: Any,
) -> Step:  # fmt: skip
    """A run's step, of a method that is moved to the fake device."""
    usual = method.training_defaults
    method = onto_cuda(method)
    groups = parameter_groups(method, usual.weight_decay, usual.decay_bias_and_norm, method.constant_rate)
    step = Step(
        Fabric(precision), method, create_optimizer(optimizer or usual.optimizer, groups, usual.momentum),  # type: ignore[arg-type]
        Rates(0.1, 0.0, 100, 10, 0.04, usual.weight_decay_end), named(policy), 0, steps=100, steps_per_epoch=NUMBER,
        clip=usual.clip, clip_mode=usual.clip_mode, parts=parts, scoring=scoring or Scoring(), **options,
    )  # fmt: skip
    step.watch._cuda = False
    return step


def take(step: Step, mode: FakeCuda, images: ImageBatch | None = None, number: int = NUMBER) -> StepReport:
    """One step, judged; one before it, which is not, fills what is kept on the device."""
    with mode:
        for judged in (False, True):
            there = (images or batch_of(8)).to(CUDA, non_blocking=True)
            mode.found.clear()
            step.watch.start()
            report = step(there, number + judged * step.scorer.scoring.every)
    return report


def telemetry(folder: Path, plan: Any) -> Recorder:
    return Recorder(folder, plan, Followed(8, 4, 2, 0, "hardest", 1, NUMBER))


def bench(name: str = "resnet10t", data: str = "shapes:24") -> Bench:
    """A backbone on the fake device, and a set of labelled pictures."""
    return Bench(
        onto_cuda(network_of(name)), data, lambda: (open_source(data), open_source(data, split="test")),
        Preprocessing(32, (0.5,) * 3, (0.5,) * 3), lambda: torch.autocast("cuda", dtype=torch.bfloat16), batch_size=8,
        blocks=int(name.startswith("vit")),
    )  # fmt: skip
