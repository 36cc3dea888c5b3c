"""Multi-layer perceptrons on top of a backbone: projectors and predictors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

LastNorm = Literal["none", "affine", "plain"]


def mlp(dims: Sequence[int], last_norm: LastNorm = "none") -> nn.Sequential:
    """Linear layers between ``dims``, each but the last followed by BN and ReLU.

    Args:
        dims: widths from input to output, at least two.
        last_norm: what follows the last layer: nothing (which then has a bias), BN, or BN without affine parameters.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(dims[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_norm == "none"))
    if last_norm != "none":
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_norm == "affine"))
    return nn.Sequential(*layers)
