"""Benches for tests of protocols: with given features, or with a small backbone on the built-in set."""

from typing import Any

import torch
from torch import nn

from hardviews.data.sources.shapes import Shapes
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Features, Preprocessing
from hardviews.networks.backbones import create_backbone

READY = Preprocessing(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0)


class Labelled:
    """Stands for a source whose features are given."""

    name, class_names, native_size = "given", None, None

    def __init__(self, features: Features) -> None:
        self.labels: Any = features.labels

    def __len__(self) -> int:
        return len(self.labels)


def bench_of(train: Features, test: Features, **options: Any) -> Bench:
    """For protocols that see nothing but features."""
    sources: Any = (Labelled(train), Labelled(test))
    bench = Bench(nn.Linear(1, 1), "given", lambda: sources, READY, **options)
    vars(bench).update(features=(train, test))  # as if they had been made
    return bench


def blobs(count: int, seed: int, classes: int = 5, dim: int = 16, noise: float = 1.5) -> Features:
    """Points around the centre of their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    vectors = centres[labels] + noise * torch.randn(count, dim, generator=generator)
    return Features(vectors, labels, torch.arange(count))


def small_bench(train: int = 100, test: int = 40, name: str = "resnet18", **options: Any) -> Bench:
    torch.manual_seed(0)
    keywords: dict[str, Any] = {"channels": [8, 16, 16, 16], "layers": [1, 1, 1, 1]} if name == "resnet18" else {}
    if name.startswith("vit"):
        keywords = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    backbone = create_backbone(name, 32, **keywords)
    return Bench(backbone, "shapes", lambda: (Shapes("train", train), Shapes("test", test)), READY, **options)
