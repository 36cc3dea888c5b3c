"""Ways of drawing crops that make harder pairs without any forward: joint areas, centre-suppressed positions."""

import math
import re
from functools import lru_cache

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.plan import ViewPlan

CELLS = 4096  # of the table that inverts a distribution


def check_crops(name: str) -> None:
    """Raises InputError if ``ViewPlan.crops`` names no way of drawing crops."""
    beta, alpha = parsed(name)
    if beta is not None and not beta > -1:
        raise InputError(f"crops: joint_crop({beta:g}): beta must be above -1")
    if alpha is not None and not 0.5 <= alpha <= 1:
        raise InputError(f"crops: contrastive_crop({alpha:g}): alpha must be 0.5 to 1")


def parsed(name: str) -> tuple[float | None, float | None]:
    """Beta of ``joint_crop(0)`` and alpha of ``contrastive_crop(0.6)``, None for the other; None twice for
    ``independent``."""
    if name == "independent":
        return None, None
    call = re.fullmatch(r"(joint_crop|contrastive_crop)(?:\((-?\d+(?:\.\d+)?)\))?", name)
    if call is None:
        raise InputError(f"crops: {name!r} is none of independent, joint_crop(BETA) and contrastive_crop(ALPHA)")
    if call[1] == "joint_crop":
        return float(call[2] or 0.0), None
    return None, float(call[2] or 0.6)


def pairs_of(plan: ViewPlan) -> list[tuple[int, int]]:
    """The candidates whose areas are drawn together: neighbours of a target slot that keeps several views, the i-th of
    two target slots of one range of areas that keep one each (DINO's globals)."""
    starts = [sum(slot.draw for slot in plan.slots[:index]) for index in range(len(plan.slots))]
    targets = [(start, slot) for start, slot in zip(starts, plan.slots, strict=True) if slot.target]
    pairs = [(start + i, start + i + 1) for start, slot in targets if slot.keep > 1 for i in range(0, slot.draw - 1, 2)]
    single = [(start, slot) for start, slot in targets if slot.keep == 1]
    if len(single) == 2 and single[0][1].scale == single[1][1].scale:
        (a, first), (b, second) = single
        pairs += [(a + i, b + i) for i in range(min(first.draw, second.draw))]
    return pairs


def joint_areas(plan: ViewPlan, area: Tensor, uniform: Tensor, beta: float) -> Tensor:
    """Areas of crops as parts of the image, ``[V, attempts, B]``, those of pairs by the joint distribution of JointCrop
    (Zhang et al., AAAI 2025).

    The log ratio of a pair's areas is drawn first, from -L to L, L being the log ratio of the largest to the smallest
    area; then the first area, uniform among those that leave the second in its range. With ``beta`` 0 the log ratio is
    uniform, as in the paper's JointCrop(0). Other values are our own: its size is
    ``L · u^(1 / (1 + beta))`` of a uniform u, so a larger beta draws areas further apart.

    Args:
        area: ``[V, attempts, B]``, areas drawn one by one, which other views keep.
        uniform: of the same shape; a view's first number is used for all its attempts.
        beta: above -1.
    """
    area = area.clone()
    slot_of = plan.slot_of()
    for a, b in pairs_of(plan):
        low, high = plan.slots[slot_of[a]].scale
        sign = 2 * uniform[b, :1].to(area.dtype) - 1  # [1, B]
        ratio = (sign.sign() * sign.abs() ** (1 / (1 + beta)) * math.log(high / low)).exp()
        smallest, largest = (low / ratio).clamp_min(low), (high / ratio).clamp_max(high)
        first = smallest + (largest - smallest) * uniform[a, :1]
        area[a], area[b] = first, (first * ratio).clamp(low, high)
    return area


def suppressed_position(side: Tensor, crop: Tensor, uniform: Tensor, alpha: float) -> Tensor:
    """Left (or top) edges of crops in whole pixels, as SimCCrop draws them (Peng et al., CVPR 2022, ContrastiveCrop).

    The centre of a crop lies in the box in the middle of the image with half its sides, away from the middle of that:
    its place within is drawn from Beta(alpha, alpha), 0.6 in the paper. ContrastiveCrop finds the box by heat maps of
    the network; SimCCrop is its authors' version without these.

    Args:
        side: of the image, pixels.
        crop: width (or height) of the crop, pixels.
        uniform: 0 to 1.
        alpha: 0.5 to 1; 1 is uniform.
    """
    low = (side / 4 - crop / 2).round().clamp_min(0)
    high = torch.minimum((side * 3 / 4 - crop / 2).round(), side - crop).maximum(low)
    return low + (beta_quantile(uniform, alpha) * (high - low + 1)).floor().minimum(high - low)


def beta_quantile(uniform: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) at the quantiles ``uniform``, by a table: one number each, whatever the distribution."""
    table = _table(alpha)
    place = uniform.double() * CELLS
    cell = place.floor().clamp(max=CELLS - 1).long()
    left, right = table[cell], table[cell + 1]
    return torch.sin(math.pi / 2 * (left + (right - left) * (place - cell))) ** 2


@lru_cache(maxsize=8)
def _table(alpha: float) -> Tensor:
    """For quantiles 0, 1 / CELLS, ..., 1 the y of x = sin²(πy/2), in which the density (sin · cos)^(2 alpha - 1) has no
    pole."""
    fine = 16 * CELLS
    middle = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    density = (torch.sin(math.pi * middle) / 2) ** (2 * alpha - 1)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0)])
    total = total / total[-1]
    wanted = torch.linspace(0, 1, CELLS + 1, dtype=torch.float64)
    above = torch.searchsorted(total, wanted).clamp(1, fine)
    below = above - 1
    share = (wanted - total[below]) / (total[above] - total[below])
    return (below + share) / fine
