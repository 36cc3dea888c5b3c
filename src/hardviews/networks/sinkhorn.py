"""Sinkhorn-Knopp: assigns the images of a batch to prototypes so that all prototypes get an equal share (SwAV,
DINOv2)."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hardviews.networks.assignment import LOGITS, LOGITS_ELSEWHERE
from hardviews.networks.gather import place
from hardviews.networks.heads import Prototypes


@dataclass(frozen=True)
class Codes:
    """Maps logits ``[..., P]`` to probabilities: a softmax after an offset for each prototype.

    Args:
        offsets: ``[..., P]``.
        temperature: of the softmax.
    """

    offsets: Tensor
    temperature: float

    def __call__(self, logits: Tensor, epoch: float = 0.0) -> Tensor:
        return (logits / self.temperature + self.offsets).softmax(-1)


@torch.no_grad()
def sinkhorn(
    vectors: Tensor, prototypes: Prototypes, temperature: float, iterations: int, weight: Tensor | None = None
) -> Codes:
    """Codes that share the vectors of all processes equally among the prototypes (Cuturi, NIPS 2013; Caron et al.,
    SwAV, NeurIPS 2020, section 3.1 and equation 3).

    Every iteration scales the rows of ``exp(logits / temperature)`` to equal sums, then the columns. The last scaling
    of columns is a softmax, so the result is one offset per prototype. It works on logarithms, which can't overflow,
    and makes logits for a part of the vectors at a time.

    Args:
        vectors: ``[N, D]``, of this process.
        temperature: epsilon in SwAV, the teacher's temperature in DINOv2.
        iterations: 3 in both papers.
        weight: ``[N]``, how much each vector counts, 0 or more; a vector of weight 0 has no influence.
    """
    step = max(1, LOGITS.get(vectors.device.type, LOGITS_ELSEWHERE) // len(prototypes))
    log_weight = vectors.new_zeros(len(vectors)) if weight is None else weight.to(vectors.dtype).log()
    parts = list(zip(torch.split(vectors, step), torch.split(log_weight, step), strict=True))
    offsets = vectors.new_zeros(len(prototypes))
    for iteration in range(iterations):
        sums = []
        for some, log in parts:
            scaled = prototypes.logits(some) / temperature + offsets
            if iteration:  # the columns of the iteration before; at the start none are scaled
                scaled = scaled.log_softmax(-1)
            sums.append((scaled + log[:, None]).logsumexp(0))
        share = _over_processes(torch.stack(sums).logsumexp(0))
        offsets = torch.where(share > -torch.inf, offsets - share, offsets)  # unless nothing has a weight
    return Codes(offsets, temperature)


def _over_processes(sums: Tensor) -> Tensor:
    """The logarithm of the sum, over processes, of numbers that are given by their logarithms ``[P]``."""
    if place()[1] == 1:
        return sums
    largest = sums.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    largest = torch.where(largest.isfinite(), largest, 0)
    total = (sums - largest).exp()
    dist.all_reduce(total)
    return largest + total.log()
