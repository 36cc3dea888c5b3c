"""Hard views for a LightningModule made of lightly's SimSiam modules, in five lines; runs in seconds on a CPU.

    pip install lightly lightning scikit-learn
    python examples/lightly_lightning.py

The five lines are marked 1 to 5. lightly's losses return the mean over the batch, which can't tell which image a view
is hard for; so the loss is written per image (1, 2). On several GPUs nothing changes: what is scored is the module
itself, not Lightning's wrapper.
"""

import logging
import warnings
from typing import Any

import torch
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightning import LightningModule, Trainer
from photographs import tiles
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

from hardviews import HardViews, pairwise

Output = tuple[Tensor, Tensor]


def loss(a: Output, b: Output) -> Tensor:  # 1
    return -(cosine_similarity(a[1], b[0]) + cosine_similarity(b[1], a[0])) / 2  # 2: [B], no mean


class SimSiam(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten())
        self.projection_head = SimSiamProjectionHead(512, 128, 128)
        self.prediction_head = SimSiamPredictionHead(128, 32, 128)
        self.hard_views = HardViews(pairwise(self.forward, loss))  # 3

    def forward(self, x: Tensor) -> Output:
        z = self.projection_head(self.backbone(x))
        return z.detach(), self.prediction_head(z)

    def training_step(self, views: list[Tensor], batch_idx: int) -> Tensor:
        x0, x1 = self.hard_views(views)  # 4
        value = loss(self.forward(x0), self.forward(x1)).mean()
        print(f"step {batch_idx}  loss {value.item():.4f}")
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Pictures(Dataset[list[Tensor]]):
    """Tiles of photographs, augmented: stands for lightly's dataset with its transform."""

    views = 4  # 5: candidates per image, instead of 2

    def __init__(self) -> None:
        self.pictures = tiles(64)
        self.transform = v2.Compose([v2.RandomResizedCrop(32, scale=(0.2, 1.0)), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [self.transform(self.pictures[index]) for _ in range(self.views)]


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips
    warnings.filterwarnings("ignore", ".*LeafSpec", module="lightning")  # of Lightning's own code
    torch.manual_seed(0)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(SimSiam(), DataLoader(Pictures(), batch_size=16, shuffle=True, drop_last=True))


if __name__ == "__main__":
    main()
