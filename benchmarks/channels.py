"""Two sets on which RGB of 8 bits shows nothing: do runs learn from further bands, and from low bits?

``bands``: images of 13 bands, of which bands 2 to 4 show a texture that says nothing of the class; the others show
another one, whose orientation and fineness are the class. The same run sees all bands, or bands 2 to 4 alone.

``bits``: grey images of 16 bits, whose high bits are one level that says nothing of the class; the texture lies in the
low ones. The same run reads them as they are stored, or rounded to 8 bits.

Example:
    python benchmarks/channels.py --seeds 0,1,2
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hardviews

Array = NDArray[Any]

SIDE, BANDS, CLASSES = 32, 13, 4
VISIBLE = slice(1, 4)  # bands 2 to 4
TRAIN, TEST = 384, 192
# Levels of 16 bits that all become the same level of 8 bits lie between odd multiples of half of this.
STEP = 65535 / 255
OPTIONS: dict[str, Any] = {
    "method": {"name": "simclr", "dim": 32, "hidden_dim": 64},
    "backbone": {"name": "resnet18", "stem": "imagenet", "channels": [16, 16, 32, 64], "layers": [1, 1, 1, 1]},
    "image_size": SIDE,
    # Crops of less would enlarge the texture, and its fineness is a part of the class.
    "plan": {"scale": (0.5, 1.0), "blur_p": 0.0},
    "batch_size": 64,
    "epochs": 5,
    "lr": 0.6,
    "views": 2,
    "scoring": "exact",
    "workers": 0,
    "telemetry": 0,
    "tensorboard": False,
    "accelerator": "cpu",
    "precision": "32-true",
    "quiet": True,
}


def textures(labels: Array, random: np.random.Generator) -> Array:
    """A grating with noise for every label, float ``[n, SIDE, SIDE]`` in 0..1: its orientation and its fineness."""
    waves, phase = np.array([3, 7])[labels // 2] + random.uniform(-0.5, 0.5, len(labels)), random.random(len(labels))
    line = np.arange(SIDE) / SIDE
    wave = np.sin(2 * np.pi * (waves[:, None] * line + phase[:, None]))  # [n, SIDE]
    along = np.where((labels % 2 == 0)[:, None, None], wave[:, :, None], wave[:, None, :])
    noisy = along + random.normal(0, 0.5, (len(labels), SIDE, SIDE))
    values: Array = ((noisy + 2.5) / 5).clip(0, 1)
    return values


def of_bands(count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """uint16 ``[n, SIDE, SIDE, BANDS]`` of 12 bits, and the labels."""
    labels, others = random.integers(0, CLASSES, (2, count))
    shown = np.where(np.isin(np.arange(BANDS), range(BANDS)[VISIBLE]), textures(others, random)[..., None],
                     textures(labels, random)[..., None])  # fmt: skip
    return (shown * 4095).round().astype(np.uint16), labels


def of_bits(count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """uint16 ``[n, SIDE, SIDE, 1]``: one of four levels of 8 bits, and within it the texture; and the labels."""
    labels, levels = random.integers(0, CLASSES, (2, count))
    lowest = np.ceil((levels + 11.5) * STEP)[:, None, None]
    return (lowest + textures(labels, random) * 255).round().astype(np.uint16)[..., None], labels


def accuracy(
    made: Callable[[int, np.random.Generator], tuple[Array, Array]], part: slice, seed: int, **options: Any
) -> tuple[float, float]:
    """The kNN accuracy before and after training, in percent.

    Args:
        made: images and labels.
        part: channels that are given to the run.
        seed: of the images and the run.
        options: of the run, besides ``OPTIONS``.
    """
    random = np.random.default_rng(seed)
    sets = []
    for count in (TRAIN, TEST):
        images, labels = made(count, random)
        sets.append([(np.ascontiguousarray(i[..., part]), int(label)) for i, label in zip(images, labels, strict=True)])
    with tempfile.TemporaryDirectory() as folder:
        run = hardviews.pretrain(data=sets[0], test_data=sets[1], seed=seed, out=f"{folder}/run", **(OPTIONS | options))
        return 100 * run.summary["knn_top1_untrained"], 100 * run.summary["knn_top1"]


def bands(seed: int) -> tuple[float, float]:
    """Percent with all bands, and with bands 2 to 4."""
    same: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "batch_size": 32}  # learns faster than LARS here
    return accuracy(of_bands, slice(None), seed, **same)[1], accuracy(of_bands, VISIBLE, seed, **same)[1]


def of_eight_bits(count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """``of_bits``, rounded to 8 bits: uint8 ``[n, SIDE, SIDE, 1]``."""
    images, labels = of_bits(count, random)
    return (images / STEP).round().astype(np.uint8), labels


def bits(seed: int) -> tuple[float, float]:
    """Percent with what is stored, and with 8 bits of it."""
    return accuracy(of_bits, slice(None), seed)[1], accuracy(of_eight_bits, slice(None), seed)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    seeds = [int(seed) for seed in parser.parse_args().seeds.split(",")]
    for name, of, ways in (("bands", bands, ("13 bands", "bands 2-4")), ("bits", bits, ("16 bits", "8 bits"))):
        found = np.array([of(seed) for seed in seeds])
        for way, column in zip(ways, found.T, strict=True):
            each = ", ".join(f"{value:.1f}" for value in column)
            print(f"{name}: {way}: kNN {column.mean():.1f} ± {column.std(ddof=min(len(seeds) - 1, 1)):.1f} % ({each})")


if __name__ == "__main__":
    main()
