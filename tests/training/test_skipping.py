"""A bad step leaves nothing behind, whatever the optimizer; a good one is what it was without the judge."""

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hardviews.training.optimizers import create_optimizer, parameter_groups
from hardviews.training.skipping import Skipping


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("centre", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rest(self.first(x))
        return found


def made(name: str) -> tuple[Skipping, Network, Any]:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu")
    network = Network()
    optimizer = create_optimizer(name, parameter_groups(network, 0.1, True), 0.9, None if name == "lars" else True)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    _, wrapped = fabric.setup(network, optimizer)
    return Skipping(fabric, network, wrapped), network, wrapped


def take(skipping: Skipping, network: Network, optimizer: Any, x: Tensor, spoil: str = "") -> float:
    """A step, bad in one way; whether it was taken for bad."""
    skipping.begin()
    output: Tensor = network(x * torch.nan if spoil == "input" else x)
    loss: Tensor = output.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    if spoil == "gradient":
        assert network.first.weight.grad is not None
        network.first.weight.grad[1, 1] = torch.inf
    cost = torch.tensor(torch.nan if spoil == "cost" else 1.0)
    bad = skipping.judge([loss, cost])
    skipping.update(bad)
    optimizer.zero_grad(set_to_none=True)
    network.get_buffer("centre").add_(output.detach().mean())
    skipping.end(bad)
    return float(bad)


def everything(network: Network, optimizer: Any) -> list[Tensor]:
    slots = [x for state in optimizer.state_dict()["state"].values() for x in state.values() if torch.is_tensor(x)]
    found = [x for name, x in network.state_dict().items() if "num_batches" not in name]
    return [x.clone() for x in (*found, *slots)]


@pytest.mark.parametrize("spoil", ["input", "gradient", "cost"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_bad_step_leaves_nothing(name: str, spoil: str) -> None:
    skipping, network, optimizer = made(name)
    x = torch.randn(8, 3)
    assert take(skipping, network, optimizer, x) == 0
    before = everything(network, optimizer)
    assert take(skipping, network, optimizer, x, spoil) == 1
    for ours, theirs in zip(everything(network, optimizer), before, strict=True):
        assert torch.equal(ours, theirs)
    # And the next good one is taken as if nothing had been.
    other, twin, twins = made(name)
    for _ in range(2):
        take(other, twin, twins, x)
    assert take(skipping, network, optimizer, x) == 0
    for ours, theirs in zip(everything(network, optimizer), everything(twin, twins), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_good_step_is_the_optimizers_own(name: str) -> None:
    skipping, network, optimizer = made(name)
    _, twin, twins = made(name)
    for _ in range(3):
        x = torch.randn(8, 3)
        take(skipping, network, optimizer, x)
        output = twin(x)
        output.square().mean().backward()
        twins.step()
        twins.zero_grad()
        twin.get_buffer("centre").add_(output.detach().mean())
    for ours, theirs in zip(everything(network, optimizer), everything(twin, twins), strict=True):
        assert torch.equal(ours, theirs)
