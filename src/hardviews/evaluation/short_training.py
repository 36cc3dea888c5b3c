"""Shared by protocols that train briefly: the order of pictures, and learning rates."""

import math

import torch

from hardviews.views.streams import stream

WARMUP = 1000  # steps, at most a tenth of all
MILESTONES = (2 / 3, 8 / 9)


def shuffled(count: int, wanted: int, seed: int, purpose: str) -> tuple[list[int], list[bool]]:
    """``wanted`` indices below ``count``, epoch by epoch, and whether each is mirrored."""
    order: list[int] = []
    for epoch in range(math.ceil(wanted / count)):
        order += torch.randperm(count, generator=stream(seed, f"{purpose} order", epoch)).tolist()
    flips = torch.rand(wanted, generator=stream(seed, f"{purpose} flips")) < 0.5
    return order[:wanted], flips.tolist()


def decay_rate(step: int, steps: int) -> float:
    """The fraction of the peak rate at a step: a linear warm-up, then division by ten after every milestone."""
    warmup = min(WARMUP, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return float(0.1 ** sum(step >= part * steps for part in MILESTONES))
