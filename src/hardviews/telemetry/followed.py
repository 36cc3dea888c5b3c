"""Which images a run follows, and at which steps it chooses their views."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardviews.views.streams import stream


@dataclass(frozen=True)
class Followed:
    """The images that a run follows.

    Args:
        images: in the data set.
        count: number of images followed; a smaller set is a subset of a larger one.
        gallery: number of thumbnails kept.
        seed: of the run, which selects the images.
        policy: of the run.
        every: the run selects at every n-th step.
        steps_per_epoch: each file holds an epoch.
        selecting: the first step that selects, and the step after the last; None for all steps.
    """

    images: int
    count: int
    gallery: int
    seed: int
    policy: str
    every: int
    steps_per_epoch: int
    selecting: tuple[int, int] | None = None

    def chosen(self, step: Tensor) -> Tensor:
        """Whether views are chosen at these steps."""
        chosen = step % self.every == 0
        if self.selecting is None:
            return chosen
        return chosen & (step >= self.selecting[0]) & (step < self.selecting[1])

    def indices(self) -> Tensor:
        """Indices of the followed images, the gallery's first."""
        return torch.randperm(self.images, generator=stream(self.seed, "telemetry"))[: self.count]
