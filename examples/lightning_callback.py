"""Hard views for a LightningModule that is not changed at all: a callback and two more views; seconds on a CPU.

    pip install lightning scikit-learn
    python examples/lightning_callback.py

What hard views add is marked 1 to 3.
"""

import logging
import warnings
from typing import Any

import torch
from lightning import LightningModule, Trainer
from photographs import tiles
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from hardviews import pairwise
from hardviews.adapters.lightning import HardViewsCallback


class SimCLR(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten(), nn.Linear(512, 64))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x), dim=-1)

    def training_step(self, batch: Any, index: int) -> Tensor:
        (x0, x1), _ = batch
        value = loss(self(x0), self(x1)).mean()
        print(f"step {index}  loss {value.item():.4f}")
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def loss(a: Tensor, b: Tensor) -> Tensor:  # 1: [B], one value per image; the batch's other images are negatives
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a), device=a.device), reduction="none")


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips
    warnings.filterwarnings("ignore", ".*LeafSpec", module="lightning")  # of Lightning's own code
    torch.manual_seed(0)
    augment = v2.Compose([v2.RandomResizedCrop(32, scale=(0.2, 1.0)), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)])
    pictures = tiles(64)
    views = [([augment(picture) for _ in range(4)], 0) for picture in pictures]  # 2: four views, not two
    chooses = HardViewsCallback(lambda module: pairwise(module, loss))  # 3
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[chooses], enable_model_summary=False, **quiet)
    trainer.fit(SimCLR(), DataLoader(views, batch_size=16))  # type: ignore[arg-type]
    print(f"a kept pair costs {trainer.callback_metrics['hard_views/kept']:.3f}, a random one "
          f"{trainer.callback_metrics['hard_views/mean']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
