"""A bench whose features are given, for protocols that see nothing else."""

from typing import Any

import torch
from torch import nn

from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Features, Preprocessing


class Labelled:
    """Stands for a source whose features are given."""

    name, class_names, native_size = "given", None, None

    def __init__(self, features: Features) -> None:
        self.labels: Any = features.labels

    def __len__(self) -> int:
        return len(self.labels)


def bench_of(train: Features, test: Features, **options: Any) -> Bench:
    preprocessing = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    sources: Any = (Labelled(train), Labelled(test))
    bench = Bench(nn.Linear(1, 1), "given", lambda: sources, preprocessing, **options)
    vars(bench).update(features=(train, test))  # as if they had been made
    return bench


def blobs(count: int, seed: int, classes: int = 5, dim: int = 16, noise: float = 1.5) -> Features:
    """Points around the centre of their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    vectors = centres[labels] + noise * torch.randn(count, dim, generator=generator)
    return Features(vectors, labels, torch.arange(count))
