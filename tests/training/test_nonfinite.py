"""A bad step leaves nothing behind, with any optimizer, at any step; a good one is the optimizer's own."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from hardviews.training.distributed.sharded_state import load_named_state, named_state
from hardviews.training.nonfinite import Copies, NonFiniteSteps
from hardviews.training.optimizers import create_optimizer, parameter_groups

# Every optimizer, by its one kernel, by kernels over all parameters, and parameter by parameter.
OPTIMIZERS = [
    f"{name} {kernel}"
    for name, kernels in (("sgd", "fused foreach plain"), ("adamw", "fused foreach plain"), ("lars", "foreach plain"))
    for kernel in kernels.split()
]
SPOILT = ["input", "gradient", "cost"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.register_buffer("centre", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.norm(self.first(x)))
        return found


class Run:
    """A network in training.

    Args:
        kind: of ``OPTIMIZERS``.
        scaled: whether the loss is scaled, as in fp16.
    """

    def __init__(self, kind: str, scaled: bool = False) -> None:
        torch.manual_seed(0)
        scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
        self.fabric = Fabric(accelerator="cpu", plugins=[scaler] if scaled else [])
        self.network = Network()
        name, kernel = kind.split()
        groups = parameter_groups(self.network, 0.1, False)
        self.inner: Optimizer = create_optimizer(name, groups, 0.9, kernel == "fused")
        for group in self.inner.param_groups:
            group |= {"lr": 0.1} | ({} if kernel == "fused" else {"foreach": kernel == "foreach"})
        _, self.optimizer = self.fabric.setup(self.network, self.inner)
        self.nonfinite = NonFiniteSteps(self.fabric, self.network, self.optimizer)

    @property
    def scaler(self) -> Any:
        return self.fabric.strategy.precision.scaler  # type: ignore[attr-defined]

    def take(self, x: Tensor, spoil: str = "", frozen: bool = False) -> dict[str, float]:
        """A step, bad in one way; what was judged of it."""
        self.nonfinite.begin()
        output: Tensor = self.network(x * torch.nan if spoil == "input" else x)
        loss: Tensor = output.square().mean()
        self.fabric.backward(loss)
        if spoil == "gradient":
            assert self.network.first.weight.grad is not None
            self.network.first.weight.grad[1, 1] = torch.inf
        if frozen:
            self.network.last.weight.grad = None
        cost = torch.tensor(torch.nan if spoil == "cost" else 1.0)
        verdict = self.nonfinite.judge([loss, cost])
        self.nonfinite.update(verdict["skipped"])
        self.optimizer.zero_grad(set_to_none=True)
        self.network.get_buffer("centre").add_(output.detach().mean())
        self.nonfinite.end(verdict["skipped"])
        return {name: float(value) for name, value in verdict.items()}

    def weights(self) -> list[Tensor]:
        return [x.clone() for name, x in self.network.state_dict().items() if "num_batches" not in name]

    def everything(self) -> list[Tensor]:
        slots = [x for state in named_state(self.network, self.inner).values() for x in state.values()]
        return [*self.weights(), *(torch.as_tensor(x).clone() for x in slots)]


def batches(count: int) -> list[Tensor]:
    return list(torch.randn(count, 8, 3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_bad_step_leaves_nothing(kind: str, before: int, spoil: str, scaled: bool) -> None:
    """The first step, the second and a later one; the steps that follow are those of a run without it."""
    run, twin = Run(kind, scaled), Run(kind, scaled)
    *first, bad, second, third = batches(before + 3)
    for x in first:
        assert run.take(x)["skipped"] == 0
        twin.take(x)
    untouched = run.weights()
    verdict = run.take(bad, spoil)
    assert verdict["skipped"] == 1
    if scaled:
        assert verdict["overflowed"] == (spoil == "gradient")
    assert all(map(torch.equal, run.weights(), untouched))
    for x in (second, third):
        assert run.take(x)["skipped"] == 0
        twin.take(x)
    for ours, theirs in zip(run.everything(), twin.everything(), strict=True):
        # The scaler has halved its scale, which is a power of two, so gradients are the same.
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_bad_first_step_is_forgotten_by_a_run_that_goes_on(kind: str) -> None:
    """A checkpoint saved right after it, as resume and going back read it."""
    x, y = batches(2)
    run, again, twin = Run(kind), Run(kind), Run(kind)
    run.take(x, "input")
    again.network.load_state_dict(run.network.state_dict())
    load_named_state(again.network, again.inner, deepcopy(named_state(run.network, run.inner)))
    for one in (run, again, twin):
        one.take(x)
        one.take(y)
    for ours, resumed, theirs in zip(run.everything(), again.everything(), twin.everything(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(resumed, theirs)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_going_back_to_a_checkpoint_drops_what_came_after_it(kind: str) -> None:
    run = Run(kind)
    x, y = batches(2)
    weights, kept = run.network.state_dict(), named_state(run.network, run.inner)  # before the first step: nothing
    weights = {name: value.clone() for name, value in weights.items()}
    run.take(x)
    run.network.load_state_dict(weights)
    load_named_state(run.network, run.inner, kept)
    twin = Run(kind)
    for one in (run, twin):
        one.take(y)
    for ours, theirs in zip(run.everything(), twin.everything(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_layer_that_is_trained_later_joins(kind: str) -> None:
    """DINO's last layer has no gradients in the first epoch; fused SGD takes no mixture of old and new momenta."""
    run = Run(kind)
    frozen = run.network.last.weight.detach().clone()
    for x in batches(2):
        run.take(x, frozen=True)
    assert torch.equal(run.network.last.weight, frozen)
    run.take(batches(1)[0])
    assert not torch.equal(run.network.last.weight, frozen)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_good_step_is_the_optimizers_own(kind: str) -> None:
    run, twin = Run(kind), Run(kind)
    for x in batches(3):
        run.take(x)
        output = twin.network(x)
        output.square().mean().backward()
        twin.inner.step()
        twin.inner.zero_grad()
        twin.network.get_buffer("centre").add_(output.detach().mean())
    for ours, theirs in zip(run.everything(), twin.everything(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_scaler_halves_its_scale_for_gradients_alone() -> None:
    run = Run("sgd fused", scaled=True)
    (x,) = batches(1)
    for spoil, scale in (("cost", 2.0**10), ("gradient", 2.0**9), ("", 2.0**9)):
        run.take(x, spoil)
        assert run.scaler.get_scale() == scale


def test_a_scaled_step_is_an_unscaled_one() -> None:
    for kind in ("sgd fused", "adamw fused", "lars foreach"):
        run, twin = Run(kind, scaled=True), Run(kind)
        x = batches(1)[0]
        # Autocast would round; the loss alone is scaled here.
        run.fabric.strategy.precision.forward_context = torch.enable_grad  # type: ignore[method-assign]
        for one in (run, twin):
            one.take(x)
        for ours, theirs in zip(run.weights(), twin.weights(), strict=True):
            assert torch.equal(ours, theirs)


def test_copies_go_back_into_any_layout_and_over_what_is_not_finite() -> None:
    tensors = [
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(5), torch.randn(()),
        torch.randn(3, dtype=torch.float64), torch.randn(4, 2).T, torch.arange(3), torch.randn(2, 4)[:, :2],
    ]  # fmt: skip
    before = [x.clone() for x in tensors]
    copies = Copies(tensors)
    for x in tensors:
        x.fill_(torch.nan if x.is_floating_point() else 7)
    copies.restore(torch.tensor(0.0))
    assert all(x.isnan().all() if x.is_floating_point() else (x == 7).all() for x in tensors)
    copies.restore(torch.tensor(1.0))
    assert all(map(torch.equal, tensors, before))
