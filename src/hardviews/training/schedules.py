"""Schedules as pure functions of the step."""

import math
from dataclasses import dataclass


def warmup_cosine(step: int, steps: int, peak: float, end: float = 0.0, warmup: int = 0, begin: float = 0.0) -> float:
    """A rate: linear from ``begin`` at step 0 to ``peak`` at step ``warmup``, then half a cosine to ``end`` at step
    ``steps``.

    Loshchilov and Hutter, "SGDR" (2017), without restarts, after the warm-up of Goyal et al. (2017). The last step
    taken is ``steps - 1``.
    """
    if step < warmup:
        return begin + (peak - begin) * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class ResolutionSchedule:
    """The size of views in training: first a fraction of their size, then the full size.

    After Zhang et al., "FastDINOv2" (NeurIPS 2025), which trains on crops of 112 and 48 px in 75 % of the epochs, and
    of 224 and 96 px in the rest.

    Args:
        resolution: fraction of a view's side before step ``full_from``.
        full_from: first step at full size.
    """

    resolution: float = 1.0
    full_from: int = 0

    def at(self, step: int) -> float:
        return self.resolution if step < self.full_from else 1.0

    def grows_at(self, step: int) -> bool:
        """Whether this step is the first at full size after smaller ones."""
        return self.resolution < 1 and 0 < step == self.full_from


FULL_SIZE = ResolutionSchedule()
