"""Hard views for stable-pretraining's SimCLR, by a callback; runs in seconds on a CPU.

    pip install stable-pretraining scikit-learn
    python examples/stable_pretraining_simclr.py

What hard views add is marked 1 to 3. NTXEntLoss returns the mean over the batch, so what a pair costs each image is
written here (1); the training loss stays the library's.
"""

import logging
import warnings
from typing import Any

import stable_pretraining as spt
import torch
from lightning import Trainer
from photographs import tiles
from stable_pretraining.forward import simclr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from hardviews import pairwise
from hardviews.adapters.stable_pretraining import StablePretrainingCallback


def loss(a: Tensor, b: Tensor) -> Tensor:  # 1: [B]
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a), device=a.device), reduction="none")


def forward(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = simclr(self, batch, stage)
    print(f"step {batch['batch_idx']}  loss {out['loss'].item():.4f}")
    return out


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips
    warnings.filterwarnings("ignore", ".*LeafSpec", module="lightning")  # of Lightning's own code
    torch.manual_seed(0)
    module: Any = spt.Module(
        forward=forward,
        backbone=nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten()),
        projector=nn.Linear(512, 64),
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.2),
        optim={"optimizer": {"type": "SGD", "lr": 0.05}, "scheduler": "ConstantLR"},
    )
    augment = v2.Compose([v2.RandomResizedCrop(32, scale=(0.2, 1.0)), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)])
    pictures = tiles(64)
    views = [{"views": [{"image": augment(x), "label": 0} for _ in range(4)]} for x in pictures]  # 2: four, not two
    chooses = StablePretrainingCallback(lambda m: pairwise(lambda x: m.projector(m.backbone(x)), loss))  # 3
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[chooses], enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader(views, batch_size=16))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
