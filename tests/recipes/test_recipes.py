"""Every resolved value of a recipe against the table in its docstring, and the large ones for two steps."""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from torch import nn

from hardviews.cli import main
from hardviews.data.sources.shapes import Shapes
from hardviews.methods.byol import BYOL
from hardviews.methods.dino import DINO
from hardviews.methods.dinov2 import DINOv2
from hardviews.methods.ibot import IBOT
from hardviews.methods.lejepa import LeJEPA
from hardviews.methods.mocov3 import MoCoV3
from hardviews.methods.simclr import SimCLR
from hardviews.methods.simsiam import SimSiam
from hardviews.methods.swav import SwAV
from hardviews.methods.vicreg import VICReg
from hardviews.networks.assignment import Assignment
from hardviews.recipes import recipes
from hardviews.selection.scoring import EXACT
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.step import scoring_of
from hardviews.training.optimizers import create_rates
from hardviews.views.plan import Slot

IMAGES = {"cifar10": 50_000, "imagenet": 1_281_167, "imagenette": 9_469}
SMALL = {"demo", "small_rgb", "small_rgb_tuned", "grey_medical", "ct", "multispectral", "dinov2_continued"}
PUBLISHED = sorted(set(recipes()) - SMALL)


def table(name: str) -> dict[str, str]:
    text = inspect.getdoc(recipes()[name]) or ""
    return dict(re.findall(r"^([a-z][\w -]*?)  +(\S.*)$", text, re.MULTILINE))


def one_each(slots: Iterable[Slot], write: Callable[[Slot], object]) -> str:
    return ", ".join(str(write(slot)) for slot in slots)


@pytest.mark.parametrize(("name", "most"), [("small_rgb", 10_000), ("grey_medical", 10_000), ("multispectral", 1_000)])
def test_small_sets_are_held_in_memory_up_to_what_their_images_take(name: str, most: int) -> None:
    assert [recipes()[name](images).in_memory for images in (most, most + 1)] == ["on", "auto"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_resolved_values_are_those_of_the_docstring(name: str) -> None:
    # shapes stands for the data, whose size at most depends on it
    options, method = resolve_defaults(recipes()[name](), Shapes(count=10))
    steps = IMAGES[name.rpartition("_")[2]] // options.images_per_step
    rates = create_rates(options, steps)
    warmup, last = round((options.warmup_epochs or 0) * steps), options.epochs * steps - 1
    slots = method.plan.slots
    resolved: dict[str, object] = {
        "batch size": options.images_per_step,
        "steps per epoch": steps,
        "lr at step 0": rates.at(0),
        "lr at end of warm-up": rates.at(warmup),
        "lr at last step": float(f"{rates.at(last):.4g}"),
        "weight decay": options.weight_decay,
        "momentum": options.momentum,
        "views": one_each(slots, lambda slot: f"{slot.draw} -> {slot.keep}"),
        "scoring": "exact" if scoring_of(options) == EXACT else options.scoring,
        "image size": one_each(slots, lambda slot: slot.size),
        "crop scale": one_each(slots, lambda slot: f"{slot.scale[0]} - {slot.scale[1]}"),
        "blur": one_each(slots, lambda slot: slot.photometric.blur_p),
    }
    if isinstance(method, SimSiam | SimCLR | MoCoV3 | SwAV | VICReg | LeJEPA):
        layers = method.projector.modules()
        widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
        resolved["projector"] = ", ".join(map(str, widths))
    if isinstance(method, SimSiam):
        resolved["constant lr"] = rates.at(last, constant=True)
        resolved["projector"] = f"{widths[0]} x {len(widths)}"
    elif isinstance(method, SimCLR):
        resolved["temperature"] = method.temperature
    elif isinstance(method, MoCoV3):
        resolved |= {"temperature": method.temperature, "teacher momentum": method.teacher_momentum}
    elif isinstance(method, SwAV):
        resolved |= {
            "temperature": method.temperature,
            "epsilon": method.epsilon,
            "prototypes": len(method.prototypes),
            "queue": len(method.embeddings),
        }
    elif isinstance(method, VICReg):
        resolved["weights"] = f"{method.invariance}, {method.variance}, {method.covariance}"
    elif isinstance(method, LeJEPA):
        resolved |= {
            "weight of SIGReg": method.weight,
            "directions": method.directions,
            "drop path": options.backbone.keywords.get("drop_path_rate", 0.0),
        }
    else:
        assert isinstance(method, DINO | IBOT | DINOv2 | BYOL)
        del resolved["momentum"]
        resolved |= {
            "weight decay": f"{rates.decay_at(0):.4g} -> {rates.decay_at(last + 1):.4g}",
            "clip": f"{options.clip} by {options.clip_mode}",
            "teacher momentum": method.teacher_momentum,
            "drop path": options.backbone.keywords.get("drop_path_rate", 0.0),
        }
    if isinstance(method, DINO | IBOT):
        resolved["prototypes"] = len(method.head.prototypes)
        resolved["teacher temperature"] = temperatures(method.assignment)
    if isinstance(method, DINOv2):
        start, end, _ = method.temperatures
        resolved |= {
            "prototypes": len(method.head.prototypes),
            "teacher temperature": f"{start} -> {end}",
            "koleo": method.koleo_weight,
            "layer decay": options.layer_decay,
        }
    if isinstance(method, IBOT):
        resolved["patch temperature"] = temperatures(method.patch_assignment)
    if isinstance(method, IBOT | DINOv2):
        (mask,) = {slot.mask for slot in slots if slot.mask}
        resolved["mask"] = f"{mask.p} of views, {mask.ratio} ± {mask.spread} of patches"
    assert {key: str(value) for key, value in resolved.items()} == table(name)


def temperatures(assignment: Assignment) -> str:
    return f"{assignment.temperature(0)} -> {assignment.temperature(1000)}"


# Every kind of network, teacher and plan; the others are left to make endure.
SAMPLE = ("dino_vits16_imagenet", "dinov2_vits16_imagenet", "swav_queue_imagenet", "vicreg_resnet50_imagenet")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.endure)
        for name in PUBLISHED
        if name.endswith("imagenet")
    ],
)
def test_imagenet_recipes_run_two_steps(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = (
        f"pretrain --recipe {name} --data shapes:4 --batch-size 2 --epochs 1 --warmup-epochs 0 --workers 0 "
        f"--knn-epochs 0 --out {run}"
    )
    assert main(line.split()) == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_every_recipe_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert set(recipes()) <= set(printed.split())
    assert {"dino_vits16_imagenet", "ibot_vits16_imagenet", "dino_resnet50_imagenet"} <= set(recipes())
    assert {"dino_cifar10", "ibot_cifar10", "dino_imagenette", "byol_resnet50_imagenet", "demo"} <= set(recipes())
