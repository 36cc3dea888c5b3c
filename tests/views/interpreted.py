"""Triton's kernels beside torch's operations. ``test_fused.py`` runs these in a process where Triton interprets them,
which it decides when it is first imported."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import hardviews.views.render as rendering
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Interpolation, Photometric, Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

EVERYTHING = Photometric(0.4, 0.4, 0.2, 0.1, jitter_p=0.8, grey_p=0.3, blur_p=0.5, solarize_p=0.3)
NOTHING = Photometric(0, 0, 0, 0, jitter_p=0, grey_p=0, blur_p=0, solarize_p=0)


@pytest.fixture
def fused() -> Any:
    import hardviews.views.fused as fused

    return fused


@pytest.fixture
def images() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    sizes = ((40, 61), (33, 17), (70, 50))
    return ImageBatch.pack([torch.randint(0, 256, (*s, 3), dtype=torch.uint8, generator=generator) for s in sizes])


def both(images: ImageBatch, views: Views, plan: ViewPlan, fused: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Views by torch's operations, and by kernels."""
    theirs = render(images, views, plan, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "kernels_on", lambda _: fused)
        ours = render(images, views, plan, **options)
    return list(zip(theirs, ours, strict=True))


@pytest.mark.parametrize(("interpolation", "side"), [("bilinear", 16), ("bicubic", 31), ("bilinear", 48)])
def test_kernels_make_the_views_that_operations_make(
    images: ImageBatch, fused: Any, interpolation: Interpolation, side: int
) -> None:
    """Larger and smaller than the crops, of whole tiles and not, two slots, one of them without any colour."""
    slot = Slot(photometric=EVERYTHING, keep=2, draw=4, size=side, interpolation=interpolation)
    plain = Slot(photometric=NOTHING, keep=1, draw=1, size=24, interpolation=interpolation)
    plan = ViewPlan((slot, plain), mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.4))
    views = draw(plan, images.size, stream(0, "views", 1))
    for drawn in (views.flip, views.grey, views.solarize, views.blur > 0, views.jitter[..., 3] != 0):
        assert 0 < drawn.sum() < drawn.numel()
    for theirs, ours in both(images, views, plan, fused):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_kernels_at_a_lower_resolution(images: ImageBatch, fused: Any) -> None:
    plan = ViewPlan((Slot(photometric=replace(EVERYTHING, solarize_p=0), keep=2, size=40),))
    views = draw(plan, images.size, stream(0, "views", 2))
    for theirs, ours in both(images, views, plan, fused, resolution=0.5):
        assert ours.shape[-1] == 20
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_kernels_where_nothing_jitters_or_one_thing_does(images: ImageBatch, fused: Any) -> None:
    for look in (NOTHING, replace(NOTHING, grey_p=0.5), replace(NOTHING, jitter_p=1, hue=0.5)):
        plan = ViewPlan((Slot(photometric=look, keep=2, size=20),))
        for theirs, ours in both(images, draw(plan, images.size, stream(0, "views", 3)), plan, fused):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_kernels_repeat_themselves_and_leave_other_views_alone(images: ImageBatch, fused: Any) -> None:
    """The same bits, whatever other views and images are made beside."""
    plan = ViewPlan((Slot(photometric=EVERYTHING, keep=2, draw=3, size=24),))
    views = draw(plan, images.size, stream(0, "views", 4))
    whole = [ours for _, ours in both(images, views, plan, fused)]
    part = [ours for _, ours in both(images[1:3], views[1:3], plan, fused)]
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[1:3], b)


def test_the_trial_runs_every_kernel(fused: Any) -> None:
    fused.compile_for(torch.device("cpu"))
    assert rendering.kernels_on(torch.device("cpu")) is None  # Triton's own target is a GPU
