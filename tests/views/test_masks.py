"""Masks of patches against what the method promises of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.draw import draw
from hardviews.views.masks import place_blocks
from hardviews.views.plan import Masking, Slot, ViewPlan
from hardviews.views.streams import stream


def plan_of(mask: Masking, local: bool = True) -> ViewPlan:
    slots = [Slot("A", draw=2, keep=1, mask=mask), Slot("B", draw=2, keep=1, mask=mask)]
    slots += [Slot("local", 96, draw=4, keep=2, target=False)] if local else []
    return ViewPlan(tuple(slots), multiple=16)


def masks_of(plan: ViewPlan, batch: int = 300, step: int = 0) -> Tensor:
    mask = draw(plan, torch.full((batch, 2), 256), stream(0, "views", step)).mask
    assert mask is not None
    return mask


def test_targets_alone_are_masked_on_the_grid_of_patches() -> None:
    masks = masks_of(plan_of(Masking()))
    assert masks.shape == (8, 300, 14, 14)
    assert masks[:4].any()
    assert not masks[4:].any()
    assert draw(ViewPlan((Slot(),)), torch.full((2, 2), 256), stream(0, "views")).mask is None


@pytest.mark.parametrize("per_view", [False, True])
def test_half_are_masked_by_a_tenth_to_a_half(per_view: bool) -> None:
    ratio = masks_of(plan_of(Masking(per_view=per_view)), 2000)[:4].double().mean((2, 3))
    masked = ratio > 0
    assert masked.double().mean() == pytest.approx(0.5, abs=0.04)
    assert ratio.max() <= 0.5
    # A ratio is what is asked for; blocks come near it from below.
    assert ratio[masked].mean() == pytest.approx(0.29, abs=0.015)
    same = (masked[0] == masked[1]).double().mean()
    assert same == pytest.approx(0.5, abs=0.05) if per_view else same == 1
    together = torch.corrcoef(ratio[:2, masked[:2].all(0)])[0, 1]
    assert abs(together) < 0.15 if per_view else together > 0.95
    assert (masked[0] == masked[2]).double().mean() == pytest.approx(0.5, abs=0.05)  # slots by themselves


def test_blocks_are_rectangles_and_masks_differ() -> None:
    """The first block of a mask of which one proposal is used is a full rectangle of at least a ninth of the grid."""
    uniform = torch.rand(1, 4, 500, generator=torch.Generator().manual_seed(0))
    masks = place_blocks(torch.full((500,), 0.4), uniform, 14)
    sizes = []
    for mask in masks[masks.flatten(1).any(1)]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        block = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert block.all()
        sizes.append(block.numel())
    assert min(sizes) >= 14
    assert max(sizes) <= 0.4 * 196
    assert len({mask.numpy().tobytes() for mask in masks}) > 400


def test_masks_never_hide_more_than_asked() -> None:
    ratio = torch.linspace(0, 0.9, 400)
    for grid in (3, 6, 14):
        uniform = torch.rand(40, 4, 400, generator=torch.Generator().manual_seed(grid))
        hidden = place_blocks(ratio, uniform, grid).double().mean((1, 2))
        assert (hidden <= ratio + 1e-6).all()
        if grid == 14:
            assert (hidden[50:] > 0.5 * ratio[50:]).all()  # of fewer patches there may be no block


def test_masks_do_not_depend_on_the_number_of_processes() -> None:
    plan = plan_of(Masking())
    size = torch.full((12, 2), 256)
    whole = draw(plan, size, stream(0, "views", 7)).mask
    half = draw(plan, size[6:], stream(0, "views", 7), start=6, total=12).mask
    assert whole is not None
    assert half is not None
    assert torch.equal(whole[:, 6:], half)
    assert not torch.equal(masks_of(plan, 12, 7), masks_of(plan, 12, 8))


def test_bad_masks_are_named() -> None:
    with pytest.raises(InputError, match="probability"):
        Masking(p=1.5)
    with pytest.raises(InputError, match="leaves the range"):
        Masking(ratio=0.3, spread=0.4)
    plan = plan_of(Masking())
    uneven = replace(plan, slots=(plan.slots[0], replace(plan.slots[1], size=96)))
    with pytest.raises(InputError, match="6 and 14 patches"):
        masks_of(uneven)


@pytest.mark.parametrize("grid", [6, 14])
def test_masks_placed_together_are_those_placed_alone(grid: int) -> None:
    """Masks that are done leave the others: each is as if it were the only one."""
    generator = torch.Generator().manual_seed(3)
    ratio = torch.rand(60, generator=generator) * 0.6 * (torch.rand(60, generator=generator) < 0.7)
    uniform = torch.rand(40, 4, 60, generator=generator)
    together = place_blocks(ratio, uniform, grid)
    for k in range(60):
        assert torch.equal(together[k], place_blocks(ratio[k : k + 1], uniform[:, :, k : k + 1], grid)[0])
