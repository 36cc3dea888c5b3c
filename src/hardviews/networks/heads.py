"""Heads on a backbone: projectors, predictors, and DINO's prototype head."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from hardviews.errors import InputError

LastNorm = Literal["none", "affine", "plain"]


def mlp(dims: Sequence[int], last_norm: LastNorm = "none") -> nn.Sequential:
    """Linear layers between ``dims``, each but the last followed by BN and ReLU.

    Args:
        dims: widths from input to output, at least two.
        last_norm: after the last layer: nothing (the layer then has a bias), BN, or BN without affine parameters.

    Raises:
        InputError: a width is 0.
    """
    if 0 in dims:  # torch refuses negative ones itself
        raise InputError(
            f"method: the layers of a head must have at least one feature, got {', '.join(map(str, dims))}"
        )
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(dims[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_norm == "none"))
    if last_norm != "none":
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_norm == "affine"))
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Prototypes:
    """P prototypes: rows, and an optional scale for each."""

    rows: Tensor  # [P, D]
    scale: Tensor | None = None  # [P]

    def __len__(self) -> int:
        return len(self.rows)

    def logits(self, vectors: Tensor) -> Tensor:
        """Maps ``[..., D]`` to ``[..., P]``."""
        logits = vectors @ self.rows.T
        return logits if self.scale is None else logits * self.scale


class PrototypeHead(nn.Module):
    """DINO's head (Caron et al., ICCV 2021, section 3.2 and appendix C) up to the product with its prototypes.

    A 3-layer MLP with GELU, a bottleneck and l2 normalisation. The last layer, whose rows are the prototypes, is not
    applied
    here: with 65,536 prototypes its output is DINO's largest tensor, so costs compute it in parts, in float32.

    Args:
        dim: width of the input features.
        prototypes: rows of the last layer.
        hidden_dim: width of the MLP.
        bottleneck_dim: width of the output.
        bn: add BN after every hidden layer.
        norm_last_layer: fix the prototypes' length at 1, instead of learning it.
    """

    def __init__(
        self,
        dim: int,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        bn: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        if min(prototypes, hidden_dim, bottleneck_dim) < 1:
            given = f"prototypes {prototypes}, hidden_dim {hidden_dim}, bottleneck_dim {bottleneck_dim}"
            raise InputError(f"method.{given}: each must be at least 1")
        layers: list[nn.Module] = []
        for fan_in in (dim, hidden_dim):
            layers.append(nn.Linear(fan_in, hidden_dim))
            if bn:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = weight_norm(nn.Linear(bottleneck_dim, prototypes, bias=False))
        length = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(length)
        if norm_last_layer:
            length.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[..., dim]`` to unit vectors ``[..., bottleneck_dim]``, in float32 or better."""
        hidden: Tensor = self.mlp(features)
        hidden = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
        return F.normalize(hidden, dim=-1)

    @property
    def prototypes(self) -> Tensor:
        """The last layer's rows, ``[P, bottleneck_dim]``: a vector's logits are ``vector @ prototypes.T``."""
        weight: Tensor = self.last_layer.weight
        return weight

    def for_logits(self, vectors: int) -> "Prototypes":
        """The faster form of prototypes for this many vectors. For a few, without gradient: the stored rows, whose
        logits are scaled afterwards, since scaling 65,536 rows would take longer. Otherwise: scaled rows."""
        stored = self.last_layer.parametrizations.weight
        length, rows = stored.original0, stored.original1
        if vectors > rows.shape[1] or (torch.is_grad_enabled() and rows.requires_grad):
            return Prototypes(self.prototypes)
        return Prototypes(rows, (length / torch.linalg.vector_norm(rows, dim=1, keepdim=True))[:, 0])
