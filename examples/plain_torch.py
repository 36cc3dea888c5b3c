"""Hard views in a plain PyTorch loop of your own: SimSiam on tiles of photographs, in seconds on a CPU.

    pip install scikit-learn  # whose photographs these are
    python examples/plain_torch.py

What hard views add to the loop is marked; the rest is any training script.
"""

import torch
from photographs import tiles
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from hardviews import HardViews, pairwise

augment = v2.Compose(
    [
        v2.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    ]
)


class SimSiam(nn.Module):
    """A small network, a projector and a predictor: images ``[B, 3, h, w]`` to (prediction, projection)."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, dim, bias=False), nn.BatchNorm1d(dim, affine=False),
        )  # fmt: skip
        self.predictor = nn.Sequential(nn.Linear(dim, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return self.predictor(z), z.detach()


def loss(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Of the model's outputs for two views: one value per image, ``[B]``; selection can't use a mean over the batch."""
    return -(F.cosine_similarity(a[0], b[1]) + F.cosine_similarity(b[0], a[1])) / 2


def main() -> None:
    torch.manual_seed(0)
    model = SimSiam()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    hard = HardViews(pairwise(model, loss))  # hard views: once

    pictures = tiles(256)
    for step in range(10):
        images = pictures[torch.randperm(len(pictures))[:32]]
        views = [torch.stack([augment(image) for image in images]) for _ in range(4)]  # hard views: 4 instead of 2
        x0, x1 = hard(views)  # hard views: for every image the two it does worst on; leaves no trace in the model
        value = loss(model(x0), model(x1)).mean()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        print(f"step {step}  loss {value.item():.4f}")


if __name__ == "__main__":
    main()
