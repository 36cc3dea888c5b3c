"""Code of others that draws from the global generators, made repeatable."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within it the global generators of Python, numpy and torch start from a seed; afterwards they are as they were.

    Args:
        seed: of all of them.
        device: where it is a GPU, its generator too.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(gpus):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
