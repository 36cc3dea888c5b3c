"""Tensors of all layouts come back from one buffer as they were."""

import torch
from torch import Tensor

from hardviews.training.packing import by_device_and_dtype, exchange, packed, unpack


def tensors() -> list[Tensor]:
    torch.manual_seed(0)
    wide = torch.randn(4, 6)
    return [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, 5).T,
        wide[:, ::2],  # with gaps
        torch.tensor(2.0),
        torch.randn(0, 3),
    ]


def test_every_layout_comes_back() -> None:
    given = tensors()
    before, buffer = [x.clone() for x in given], packed(given)
    assert buffer.numel() == sum(x.numel() for x in given)
    for x in given:
        x.zero_()
    unpack(buffer, given)
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


def test_a_collective_gets_one_buffer_of_every_dtype() -> None:
    given = [*tensors(), torch.ones(3, dtype=torch.float64), torch.ones(2)]
    before, sent = [x.clone() for x in given], list[torch.dtype]()

    def send(buffer: Tensor) -> None:
        sent.append(buffer.dtype)
        buffer.mul_(2)

    exchange(given, send)
    assert sent == [torch.float32, torch.float64]
    assert all(torch.equal(x, 2 * y) for x, y in zip(given, before, strict=True))
    exchange([], send)
    assert len(sent) == 2
    assert [len(group) for group in by_device_and_dtype(given)] == [6, 1]
