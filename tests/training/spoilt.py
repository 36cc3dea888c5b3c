"""A method that goes wrong once, for tests that start it in processes of their own."""

import torch
from torch import Tensor

from hardviews.methods.dino import DINO, DINOEncoding


class SpoiltDINO(DINO):
    """DINO whose loss is not finite at one step."""

    def loss(self, encoding: DINOEncoding) -> Tensor:
        found = super().loss(encoding)
        return found * torch.nan if self.progress.step == 5 else found
