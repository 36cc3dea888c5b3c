"""Runs that reports are made of."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from hardviews.cli import main

TINY = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --image-size 32 --batch-size 16 "
    "--workers 0 --tensorboard false --accelerator cpu"
)
# Names that are markup, template and mathematics to whoever does not escape them.
STRANGE_RUN = "<script>alert(1)<\"&'{{ 7 * 7 }}$x$"
STRANGE_DATA = 'pic<b>tures&"'
STRANGE_CLASS = "<i>cats&\"'"


@pytest.fixture(scope="session")
def strange_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SimCLR with telemetry, labels and measurements, everything named to break a page."""
    folder = tmp_path_factory.mktemp("report")
    generator = torch.Generator().manual_seed(0)
    for label in (STRANGE_CLASS, "dogs"):
        (folder / STRANGE_DATA / label).mkdir(parents=True)
        for index in range(40):
            noise = torch.randint(0, 256, (40, 36, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(folder / STRANGE_DATA / label / f"{index}.png")
    run = folder / STRANGE_RUN
    line = f"{TINY} --method simclr --method.dim 16 --method.hidden-dim 16 --epochs 5 --knn-epochs 2".split()
    assert main(["pretrain", *line, "--data", str(folder / STRANGE_DATA), "--out", str(run)]) == 0
    return run
