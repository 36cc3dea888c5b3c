"""Every resolved value of a recipe against the table in its docstring, and the large ones for two steps."""

import inspect
import re
from pathlib import Path

import pytest
from torch import nn

from hardviews.cli import main
from hardviews.commands.settling import settle
from hardviews.commands.training_run import create_rates
from hardviews.data.shapes import Shapes
from hardviews.methods.simclr import SimCLR
from hardviews.methods.simsiam import SimSiam
from hardviews.recipes import recipes

IMAGES = {"cifar10": 50_000, "imagenet": 1_281_167}
PUBLISHED = sorted(set(recipes()) - {"demo"})


def table(name: str) -> dict[str, str]:
    text = inspect.getdoc(recipes()[name]) or ""
    return dict(re.findall(r"^([a-z][\w -]*?)  +(\S.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", PUBLISHED)
def test_resolved_values_are_those_of_the_docstring(name: str) -> None:
    # shapes stands for the data, whose size at most depends on it
    options, method = settle(recipes()[name](), Shapes(count=10))
    steps = IMAGES[name.partition("_")[2]] // options.batch_size
    rates = create_rates(options, steps)
    warmup = round((options.warmup_epochs or 0) * steps)
    (slot,) = method.plan.slots
    linear = [m for m in method.get_submodule("projector").children() if isinstance(m, nn.Linear)]
    resolved = {
        "batch size": options.batch_size,
        "steps per epoch": steps,
        "lr at step 0": rates.at(0),
        "lr at end of warm-up": rates.at(warmup),
        "lr at last step": float(f"{rates.at(options.epochs * steps - 1):.4g}"),
        "weight decay": options.weight_decay,
        "momentum": options.momentum,
        "views": f"{slot.draw} -> {slot.keep}",
        "image size": slot.size,
        "crop scale": f"{slot.scale[0]} - {slot.scale[1]}",
        "blur": slot.photometric.blur_p,
    }
    if isinstance(method, SimSiam):
        resolved["constant lr"] = rates.at(options.epochs * steps - 1, constant=True)
        resolved["projector"] = f"{linear[0].out_features} x {len(linear)}"
    elif isinstance(method, SimCLR):
        resolved["temperature"] = method.temperature
        resolved["projector"] = ", ".join(str(layer.out_features) for layer in linear)
    assert {key: str(value) for key, value in resolved.items()} == table(name)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("imagenet")])
def test_imagenet_recipes_run_two_steps(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"pretrain --recipe {name} --data shapes:4 --batch-size 2 --epochs 1 --workers 0 --knn-epochs 0 --out {run}"
    assert main(line.split()) == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_every_recipe_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert {"simsiam_cifar10", "simclr_cifar10", "simsiam_imagenet", "simclr_imagenet", "demo"} <= set(printed.split())
