"""Schedules as pure functions of the step."""

import math


def warmup_cosine(step: int, steps: int, peak: float, end: float = 0.0, warmup: int = 0) -> float:
    """A rate: linear from 0 at step 0 to ``peak`` at step ``warmup``, then half a cosine to ``end`` at ``steps``.

    Loshchilov and Hutter, "SGDR" (2017), without restarts, after the warm-up of Goyal et al. (2017). The last step
    taken is ``steps - 1``.
    """
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
