"""Mutated inputs to whatever reads what others have written: the stated errors and no other.

``make endure`` runs the full counts, ``make test`` a sample.
"""

import os
import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.commands.pretrain import parse
from hardviews.data.reading.decode import Bounds, UnreadableImage, decode
from hardviews.errors import InputError, RunError
from hardviews.training.output import checkpoint
from hardviews.training.output.run_folder import RunFolder

COUNT = 10_000 if os.environ.get("ENDURE") else 300


def mutated(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits flipped, stretches overwritten, cut out, doubled, or everything cut short."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            place, length = draw.randrange(len(data) or 1), draw.randint(1, 64)
            match draw.randrange(5):
                case 0 if data:
                    data[place] ^= 1 << draw.randrange(8)
                case 1:
                    data[place : place + length] = draw.randbytes(length)
                case 2:
                    del data[place : place + length]
                case 3:
                    data[place:place] = data[place : place + length]
                case _ if draw.random() < 0.2:
                    del data[place:]
        yield bytes(data)


def encoded(kind: str, mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    whole = BytesIO()
    Image.fromarray(noise).convert(mode).save(whole, kind)
    return whole.getvalue()


KINDS = "JPEG-RGB JPEG-CMYK PNG-RGBA PNG-P WEBP-RGB GIF-P TIFF-RGB BMP-RGB"


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


@pytest.mark.parametrize(("kind", "mode"), [pair.split("-") for pair in KINDS.split()])
def test_pictures(kind: str, mode: str) -> None:
    bounds = Bounds(side=16, pixels=16 * 64)
    for number, data in enumerate(mutated(encoded(kind, mode), COUNT, seed=1)):
        try:
            pixels = decode(data, bounds)
        except UnreadableImage as error:
            assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
        else:
            assert pixels.dtype == torch.uint8
            assert pixels.shape[2] == 3
            assert 0 < pixels.shape[0] * pixels.shape[1] <= bounds.pixels, number


def test_configurations(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    text = (
        b"data: shapes\nmethod:\n  name: simsiam\n  dim: 64\nplan:\n  scale: [0.2, 1.0]\nbackbone:\n  name: resnet18\n"
        b"  keywords: {layers: [1, 1, 1, 1]}\nviews: [4]\nlr: 0.05\nepochs: 3\nclip_by: all\nmean: [0.4, 0.4, 0.4]\n"
    )
    for number, data in enumerate(mutated(text, COUNT if COUNT > 1000 else COUNT // 5, seed=2)):
        run.config_file.write_bytes(data)
        for read in (run.config, lambda: parse(["--config", str(run.config_file)])):
            try:
                read()
            except InputError as error:
                assert one_line(error), number  # noqa: PT017 (any of many may be wrong)


def test_checkpoints(tmp_path: Path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path)
    file = checkpoints.last
    weights = torch.rand(500)
    checkpoints.save({"step": 7, "method": {"w": weights}, "optimizer": {"state": [1, 2.5, None]}})
    for number, data in enumerate(mutated(file.read_bytes(), COUNT, seed=3)):
        file.write_bytes(data)
        try:
            state = checkpoint.load(file)
        except RunError as error:
            assert one_line(error), number  # noqa: PT017 (any of many may be wrong)
        else:  # what was changed says nothing
            assert torch.equal(state["method"]["w"], weights), number
            assert state["optimizer"] == {"state": [1, 2.5, None]}, number
            assert state["step"] == 7, number
