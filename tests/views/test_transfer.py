"""Numbers of views reach a GPU in one copy, whatever they look like in memory."""

import torch

from hardviews.views.draw import Views, draw
from hardviews.views.plan import Masking, Photometric, Slot, ViewPlan
from hardviews.views.streams import stream
from hardviews.views.transfer import to_device
from tests.device.fake_cuda import CUDA, pretending

KINDS = [
    torch.arange(6).view(2, 3).T, torch.rand(3, 1, 2), torch.tensor([True, False, True]), torch.rand(()),
    torch.rand(5, dtype=torch.float64)[::2], torch.zeros(1).expand(4, 3), torch.empty(0, 2), torch.rand(3).half(),
]  # fmt: skip


def test_everything_comes_back_as_it_was(device: str) -> None:
    for given, moved in zip(KINDS, to_device(KINDS, device), strict=True):
        assert moved.device.type == device
        assert moved.dtype == given.dtype
        assert torch.equal(moved.cpu(), given)


def test_one_copy_that_nothing_waits_for() -> None:
    with pretending() as mode, mode:
        moved = to_device(KINDS, CUDA)
    assert not mode.found.waits
    assert mode.found.launches.total() == 1
    for given, there in zip(KINDS, moved, strict=True):
        assert (there.device, there.dtype, there.shape) == (CUDA, given.dtype, given.shape)


def test_views_that_repeat_a_number_can_be_moved() -> None:
    """Views made by ``expand`` can't be pinned as they are."""
    plan = ViewPlan((Slot(size=32, draw=2, keep=2, photometric=Photometric(0.4), mask=Masking()),), multiple=8)
    views = draw(plan, torch.full((3, 2), 40), stream(0, "views"))
    one = views[:1]
    numbers = {n: x for n, x in vars(one).items() if n != "slot" and x is not None}
    expanded = Views(slot=views.slot, **{n: x.expand(2, 3, *x.shape[2:]) for n, x in numbers.items()})
    with pretending() as mode, mode:
        moved = expanded.to("cuda", non_blocking=True)
    assert moved.device == CUDA
    assert moved.box.shape == (2, 3, 4)
    assert not mode.found.waits
