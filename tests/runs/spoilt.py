"""SimSiam whose third loss, fifth gradient and every loss from the tenth on are not finite."""

import torch
from torch import Tensor

from hardviews.methods.simsiam import SimSiam, SimSiamEncoding


class Spoilt(SimSiam):
    def loss(self, encoding: SimSiamEncoding) -> Tensor:
        found = super().loss(encoding)
        step = self.progress.step
        if step == 4:
            found.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[no-untyped-call]
        return found * torch.nan if step == 2 or step >= 9 else found
