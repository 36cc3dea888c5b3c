"""What a run is built of, where whole runs on a CPU can't show it."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hardviews.errors import InputError
from hardviews.methods.simsiam import SimSiam
from hardviews.networks.backbones import create_backbone
from hardviews.options.pretraining import PretrainOptions
from hardviews.selection.guard import untouched
from hardviews.setup.step import check_norms, synchronised


def small_simsiam() -> SimSiam:
    """On a backbone whose BN layers activate too, and with a BN that has no weights in the projector."""
    torch.manual_seed(0)
    backbone = create_backbone("mobilenetv3_small_050", 32)
    return SimSiam(backbone, SimSiam.default_plan(32), dim=16, predictor_dim=8)


def test_bn_is_synchronised_on_gpus_and_is_the_same_bn_otherwise() -> None:
    views = list(torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    plain, method = small_simsiam(), synchronised(small_simsiam(), "cuda", 2)
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert list(method.state_dict()) == list(plain.state_dict())
    # Without a process group its forward runs on a CPU too, as a plain BN.
    with untouched(method):
        method(views)
    torch.testing.assert_close(method(views), plain(views), rtol=0, atol=0)
    torch.testing.assert_close(method.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("accelerator", "batch", "accumulate", "processes", "refused"),
    [
        ("cpu", 1, 1, 1, True),
        ("cpu", 4, 4, 1, True),
        ("cpu", 4, 1, 4, True),
        ("cpu", 4, 1, 2, False),
        ("cuda", 1, 1, 1, True),
        ("cuda", 4, 1, 4, False),  # whose BN has the images of all
        ("cuda", 4, 4, 1, True),
        ("cuda", 8, 4, 2, False),
    ],
)
def test_bn_gets_two_images_at_least(
    accelerator: str, batch: int, accumulate: int, processes: int, refused: bool
) -> None:
    options, method = (
        PretrainOptions(accelerator=accelerator, batch_size=batch, grad_accumulation=accumulate),
        small_simsiam(),
    )
    with pytest.raises(InputError, match="BN of this network needs two") if refused else nullcontext():
        check_norms(method, options, processes)
    check_norms(method.eval(), options, processes)  # on running statistics


def test_bn_is_left_alone_where_it_can_not_or_need_not_be_synchronised() -> None:
    for device_type, processes in (("cuda", 1), ("cpu", 2)):
        method = synchronised(small_simsiam(), device_type, processes)
        assert not any(isinstance(module, nn.SyncBatchNorm) for module in method.modules())
