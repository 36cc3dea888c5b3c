"""Which device is taken, and which of its kernels."""

from collections.abc import Iterator

import pytest
import torch

from hardviews.errors import InputError
from hardviews.training.precision import choose_kernels, device_type


def test_auto_is_cuda_or_the_cpu_and_never_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crop boxes are computed in float64, which MPS does not have."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=available: there)
        assert device_type("auto") == expected
    with pytest.raises(InputError, match=r"mps has no float64.*give cpu"):
        device_type("mps")
    with pytest.raises(InputError, match="no CUDA device is available"):
        device_type("gpu")


@pytest.fixture
def kernels() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.usefixtures("kernels")
def test_deterministic_kernels_are_not_chosen_by_their_time() -> None:
    choose_kernels(deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    choose_kernels(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
