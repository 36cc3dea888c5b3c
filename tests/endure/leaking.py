"""SimSiam that keeps something of every step, to show that it would be seen."""

from pathlib import Path
from typing import Any

import torch

from hardviews.methods.simsiam import SimSiam, SimSiamEncoding

KEPT: list[Any] = []


class Leaking(SimSiam):
    def after_step(self, encoding: SimSiamEncoding) -> None:
        KEPT.append(torch.ones(1 << 16))  # 256 KiB
        KEPT.append(Path(__file__).open())  # noqa: SIM115
