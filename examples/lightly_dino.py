"""Hard views for DINO made of lightly's modules, in a loop of its own; runs in seconds on a CPU.

    pip install lightly scikit-learn
    python examples/lightly_dino.py

Of two candidates for each of two global views and eight for the local ones, the hardest combination is kept: one, one
and four. It is found exactly. lightly's loss returns the mean over the batch, so what a view costs each image is
written here (1), with the loss's own centre and temperatures; the training loss stays lightly's.
"""

import warnings

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from photographs import tiles
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from hardviews import Costs, HardViews, Slot, ViewPlan

PLAN = ViewPlan(
    (
        Slot("global A", draw=2, keep=1),
        Slot("global B", draw=2, keep=1),
        Slot("local", draw=8, keep=4, target=False),
    )
)


def network() -> nn.Module:
    backbone = nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten())
    return nn.Sequential(backbone, DINOProjectionHead(512, 128, 64, 256, batch_norm=True))


class DINO(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = network(), network()
        self.teacher.load_state_dict(self.student.state_dict())
        deactivate_requires_grad(self.teacher)
        self.loss = DINOLoss(256)

    def costs(self, views: list[Tensor]) -> Costs:  # 1: [T, V, B], how hard is it to predict view t from view v
        targets = [((self.teacher(view) - self.loss.center[0]) / 0.04).softmax(-1) for view in views[: PLAN.targets]]
        predictions = [(self.student(view) / 0.1).log_softmax(-1) for view in views]
        return Costs(torch.stack([torch.stack([-(t * p).sum(-1) for p in predictions]) for t in targets]))


def crops(size: int, scale: tuple[float, float]) -> v2.Transform:
    return v2.Compose(
        [v2.RandomResizedCrop(size, scale), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.2, 0.1)]
    )


def main() -> None:
    warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)  # of lightly's own code
    torch.manual_seed(0)
    method = DINO()
    optimizer = torch.optim.SGD(method.student.parameters(), lr=0.05, momentum=0.9)
    hard_views = HardViews(method.costs, PLAN)  # 2
    whole, local = crops(48, (0.4, 1.0)), crops(32, (0.05, 0.4))
    for step in range(4):
        pictures = tiles(12, 64)
        candidates = [torch.stack([augment(picture) for picture in pictures]) for augment in [whole] * 4 + [local] * 8]
        views = hard_views(candidates)  # 3: one A, one B and four local views, the hardest for each picture
        with torch.no_grad():
            update_momentum(method.student, method.teacher, m=0.99)
            targets = [method.teacher(view) for view in views[:2]]
        loss = method.loss(targets, [method.student(view) for view in views], epoch=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
