"""How scoring saves time. Each saving trades a little hardness of the kept views for speed.

``benchmarks/scoring.py`` measures how much hardness each setting keeps and how long it takes; ``docs/cost.md`` has the
results.
"""

from dataclasses import dataclass
from typing import Literal

from hardviews.errors import InputError

Network = Literal["student", "teacher", "teacher_targets"]


@dataclass(frozen=True)
class Scoring:
    """How candidates are scored. By default scoring is exact: it saves only what costs no hardness.

    Args:
        resolution: render and score candidates at this fraction of their size in training, which takes about its square
            of the time. A ViT's position embeddings are interpolated, and its masks shrink along.
        network: ``student`` predicts as in training. ``teacher``: the momentum teacher replaces both networks in one
            forward, whose encodings training mostly reuses at full resolution. ``teacher_targets``: the teacher scores
            target views only; other views (local crops) are kept as drawn, unscored.
        every: choose at every n-th step only; the steps in between use the views of the plain method.
        token_keep: a ViT scores this fraction of its patches, drawn at random.
        depth: candidates pass this part of the backbone's stages or blocks; a linear map, learned while training,
            predicts the features of the whole.
        reuse: reuse the target encodings in training if that is exact. This saves time at no loss.
        chunk: encode this many images at once, to save memory; 0 for all. Only for networks without BN.
        once: train on what scoring computed instead of encoding kept views again. Takes memory; loses nothing.

    Raises:
        InputError: a number is outside its range.
    """

    resolution: float = 1.0
    network: Network = "student"
    every: int = 1
    token_keep: float = 1.0
    depth: float = 1.0
    reuse: bool = True
    chunk: int = 0
    once: bool = False

    def __post_init__(self) -> None:
        for name in ("resolution", "token_keep", "depth"):
            if not 0 < getattr(self, name) <= 1:
                option = name.replace("_", "-")
                raise InputError(f"score-{option}: {getattr(self, name)} must be above 0 and at most 1")
        if self.every < 1 or self.chunk < 0:
            raise InputError(
                f"--score-every {self.every} must be at least 1, and --score-chunk {self.chunk} at least 0"
            )
        savings = (self.resolution, self.network, self.token_keep, self.depth, self.chunk)
        if self.once and savings != (1, "student", 1, 1, 0):
            raise InputError(
                "score-once: training takes up what the student computes of all candidates, whole, at full size; "
                "give --scoring exact and no other savings, or --score-once false"
            )


EXACT = Scoring()
