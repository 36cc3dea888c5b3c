"""How cheaply the costs for a choice are computed. Each saving is a trade: a choice a little less hard, for less time.

``benchmarks/scoring.py`` measures what a way of scoring keeps of the hardness beside the time it takes; what was found
is in ``docs/cost.md``.
"""

from dataclasses import dataclass
from typing import Literal

from hardviews.errors import InputError

Network = Literal["student", "teacher", "teacher_targets"]


@dataclass(frozen=True)
class Scoring:
    """A way of scoring. As it is made here nothing is saved but what costs no hardness: exact scoring.

    Args:
        resolution: candidates are rendered and scored at this part of their size, at about its square of the time. A
            ViT's positions are interpolated and its masks shrink along.
        network: who is asked. ``student``: it predicts as it will in training. ``teacher``: the momentum teacher stands
            for both, in one forward, which at full resolution is mostly used again. ``teacher_targets``: the
            teacher, of target views only; other views (local crops) are taken as they come, unscored.
        every: choose at every so-many-th step only; views in between are those of the plain method.
        token_keep: a ViT scores on this part of its patches, drawn at random.
        reuse: use the encodings of targets again in training, where that is exact. It saves time at no loss.
        chunk: images encoded at once, for less memory; 0 is all. Only for networks without BN.

    Raises:
        InputError: a number outside its range.
    """

    resolution: float = 1.0
    network: Network = "student"
    every: int = 1
    token_keep: float = 1.0
    reuse: bool = True
    chunk: int = 0

    def __post_init__(self) -> None:
        for name in ("resolution", "token_keep"):
            if not 0 < getattr(self, name) <= 1:
                option = name.replace("_", "-")
                raise InputError(f"score-{option}: {getattr(self, name)} must be above 0 and at most 1")
        if self.every < 1 or self.chunk < 0:
            raise InputError(f"score-every {self.every} must be at least 1, and score-chunk {self.chunk} at least 0")


EXACT = Scoring()
