"""Block-wise patch masks: Bao et al., "BEiT" (ICLR 2022, algorithm 1), as iBOT draws them (Zhou et al., ICLR 2022,
section 3.1 and its code)."""

from math import log

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.plan import ViewPlan, size_at

PROPOSALS = 40  # proposed blocks per mask; none of 4,000 masks on grids of 6 to 16 took more
PATIENCE = 10  # consecutive refusals after which a mask stays as it is
NARROWEST = 0.3  # smallest height / width of a block; its inverse is the largest


def draw_masks(plan: ViewPlan, generator: torch.Generator, start: int, batch: int, total: int) -> Tensor | None:
    """Draws the hidden patches of every view, bool ``[V, B, rows, columns]``; None if no slot masks.

    Draws numbers for the global batch but places blocks for this process's images only.

    Args:
        plan: all masked slots must have the same grid; the patch size is ``plan.multiple``.
        generator: on the CPU.
        start, batch, total: position of this process's images, their number, and the size of the global batch.

    Raises:
        InputError: masked slots have different grids.
    """
    slot_of = plan.slot_of()
    slots = [plan.slots[slot] for slot in slot_of]
    grids = {size_at(plan, slot) // plan.multiple for slot in slots if slot.mask}
    if not grids:
        return None
    if len(grids) > 1:
        raise InputError(f"masked views must be of one size, not of {' and '.join(map(str, sorted(grids)))} patches")
    (grid,) = grids
    masked = [v for v, slot in enumerate(slots) if slot.mask]
    uniform = torch.rand(len(masked), 2 + 4 * PROPOSALS, total, generator=generator)[..., start : start + batch]
    ratios = []
    for row, v in enumerate(masked):
        mask, first = slots[v].mask, masked.index(slot_of.index(slot_of[v]))  # the first view of the same slot
        assert mask is not None
        # All candidates of a slot share one ratio, unless per_view asks for one each.
        hidden, ratio = uniform[row if mask.per_view else first, :2]
        low, high = mask.ratio - mask.spread, mask.ratio + mask.spread
        ratios.append(torch.where(hidden < mask.p, low + (high - low) * ratio, 0.0))
    out = torch.zeros(len(slots), batch, grid, grid, dtype=torch.bool)
    blocks = uniform[:, 2:].reshape(len(masked), PROPOSALS, 4, batch).permute(1, 2, 0, 3).flatten(2)  # [.., 4, N]
    out[masked] = place_blocks(torch.cat(ratios), blocks, grid).view(len(masked), batch, grid, grid)
    return out


def place_blocks(ratio: Tensor, uniform: Tensor, grid: int) -> Tensor:
    """Builds masks of about the given ratio and never more, bool ``[N, grid, grid]``.

    Each proposal is a block anywhere, of any aspect ratio, with an area between a ninth of the grid and what is left to
    hide. It is accepted if it hides something new and no more than is left.

    Args:
        ratio: ``[N]``, the fraction of patches to hide.
        uniform: ``[proposals, 4, N]`` numbers in 0..1: area, aspect, row and column of every proposal.
    """
    masks = torch.zeros(len(ratio), grid, grid, dtype=torch.bool)
    wanted, least = ratio * grid**2, (grid // 3) ** 2
    place = torch.arange(grid)
    # Finished masks are skipped: most are finished after a few proposals, and half have nothing to hide.
    rows = (wanted >= 1).nonzero()[:, 0]
    mask, refused = masks[rows], torch.zeros(len(rows), dtype=torch.int64)
    for proposal in uniform:
        left = wanted[rows] - mask.sum((1, 2))
        area, aspect, row, column = proposal[:, rows]
        area = least + (left - least) * area
        aspect = torch.exp(log(NARROWEST) * (1 - 2 * aspect))
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        top, start = (row * (grid - height + 1)).floor(), (column * (grid - width + 1)).floor()
        lines = (place >= top[:, None]) & (place < (top + height)[:, None])  # [N, grid]
        columns = (place >= start[:, None]) & (place < (start + width)[:, None])
        block = lines[:, :, None] & columns[:, None]
        new = (block & ~mask).sum((1, 2))
        fits = (height < grid) & (width < grid) & (new > 0) & (new <= left)
        mask |= block & fits[:, None, None]
        refused = torch.where(fits, 0, refused + 1)
        going = (left - new * fits >= 1) & (refused < PATIENCE)
        masks[rows] = mask
        rows, mask, refused = rows[going], mask[going], refused[going]
        if not len(rows):
            break
    return masks
