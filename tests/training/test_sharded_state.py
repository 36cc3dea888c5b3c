"""What optimizers remember is found again by name, and lies in memory as its parameter does."""

from copy import deepcopy

import torch
from torch import nn
from torch.optim import AdamW

from hardviews.training.distributed.sharded_state import load_named_state, named_state
from hardviews.training.optimizers import create_optimizer, parameter_groups


def optimizer_of(network: nn.Module, decay_bias_and_norm: bool) -> AdamW:
    optimizer = create_optimizer("adamw", parameter_groups(network, 0.0, decay_bias_and_norm), 0.0, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    assert isinstance(optimizer, AdamW)
    return optimizer


def step(network: nn.Module, optimizer: AdamW, seed: int) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    network(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_other_groups_and_another_memory_format_change_nothing() -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Conv2d(5, 4, 3))
    optimizer = optimizer_of(whole, decay_bias_and_norm=True)
    step(whole, optimizer, 1)
    network = deepcopy(whole).to(memory_format=torch.channels_last)
    other = optimizer_of(network, decay_bias_and_norm=False)  # which groups, and so numbers, them otherwise
    load_named_state(network, other, deepcopy(named_state(whole, optimizer)))
    for seed in (2, 3):
        step(whole, optimizer, seed)
        step(network, other, seed)
    torch.testing.assert_close(network.state_dict(), whole.state_dict(), atol=1e-5, rtol=0)
