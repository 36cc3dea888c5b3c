"""Whether the fake device sees what it is there for."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from tests.device.fake_cuda import CUDA, FakeCuda, onto_cuda, pretending


def waits(mode: FakeCuda) -> list[str]:
    return sorted({what.partition(":")[0] for what in mode.found.waits})


def test_reads_and_copies_that_wait_are_seen() -> None:
    with pretending() as mode, mode:
        x = torch.ones(1 << 16).pin_memory().to(CUDA, non_blocking=True)
        y = x * 2
        assert waits(mode) == []
        bool(y.sum() > 1)
        assert waits(mode) == ["reads _local_scalar_dense.default"]
        mode.found.clear()
        y.cpu()
        torch.ones(3).to(CUDA)
        torch.ones(1 << 16).to(CUDA, non_blocking=True)
        assert waits(mode) == [
            "copies more than 64 KiB of pageable memory",
            "copies to the device",
            "copies to the host",
        ]
        mode.found.clear()
        with pytest.raises(DynamicOutputShapeException):  # nobody knows how large it is
            y[y > 0]
        assert "reads a boolean index" in waits(mode)


def test_numbers_that_are_set_by_index_are_seen() -> None:
    with pretending() as mode, mode:
        x, places = torch.zeros(4, 4, device=CUDA), torch.arange(2, device=CUDA)
        x[places, places] = 1.0
        assert [what for what in mode.found.waits if "set by index" in what]
        mode.found.clear()
        x[1:3] = 1.0
        x[places, places] = torch.ones(2, device=CUDA)
        assert not mode.found.waits


def test_expanded_tensors_can_not_be_pinned() -> None:
    with pretending(), pytest.raises(RuntimeError, match="single memory location"):
        torch.zeros(1).expand(2, 3).pin_memory()


def test_mixed_devices_are_refused() -> None:
    with pretending() as mode, mode, pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=CUDA) + torch.ones(3)


def test_kernels_are_counted_and_views_are_not() -> None:
    with pretending() as mode, mode:
        x = torch.empty(4, 6, device=CUDA)
        mode.found.clear()
        x.view(2, 12).T.unsqueeze(0).expand(3, 12, 2)[1:, :4]
        assert not mode.found.launches
        y = x + 1
        y.mul_(2)
        torch.cat([x, y]).sum()
        assert mode.found.launches.total() == 4


def test_gradients_arrive() -> None:
    network = onto_cuda(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))
    with pretending() as mode, mode:
        network(torch.ones(8, 4, device=CUDA)).square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad.device == CUDA
        assert parameter.grad.shape == parameter.shape
