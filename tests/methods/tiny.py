"""A network small enough for float64 and free of BN."""

from torch import Tensor, nn


class TinyBackbone(nn.Module):
    """Images ``[B, 3, h, w]`` to ``[B, 8]``."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images).mean((2, 3))
        return features


def without_bn(module: nn.Module) -> nn.Module:
    """The same with layer norms, which do not depend on the other images, in place of batch norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            norm = nn.LayerNorm(child.num_features, elementwise_affine=child.affine)
            setattr(module, name, norm.requires_grad_(child.affine and child.weight.requires_grad))
        else:
            without_bn(child)
    return module
