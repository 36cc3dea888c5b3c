"""The policy ``learnable`` against a moving average of the weights, for methods without a teacher."""

import copy
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from hardviews.errors import InputError
from hardviews.methods.simsiam import SimSiam
from hardviews.selection import policies
from hardviews.selection.costs import Costs
from hardviews.selection.guard import untouched
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, tiny_vit
from tests.training.test_early_exit import images, simsiam, take

FABRIC = Fabric(accelerator="cpu", devices=1)
MOMENTUM = 0.8


def costs_of(scorer: Scorer) -> Costs:
    views = draw(scorer.method.plan, images().size, stream(0, "views", 0))
    assert scorer.average is not None
    with untouched(scorer.method, scorer.average):
        found = scorer(scorer.candidates(images(), views), None, 0)
    costs = found[0] if isinstance(found, tuple) else found
    assert costs.reference is not None
    return costs


def test_the_reference_are_the_costs_of_a_method_with_the_averaged_weights() -> None:
    method = simsiam()
    scorer = Scorer(FABRIC, method, EXACT, reference=MOMENTUM)
    with torch.no_grad():
        for parameter in method.parameters():  # loaded after the scorer was made
            parameter.add_(0.01)
    found = costs_of(scorer)
    assert found.reference is not None
    torch.testing.assert_close(found.reference.cross, found.cross, rtol=0, atol=1e-6)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    scorer.follow()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.mul_(1.1)
    scorer.follow()
    by_hand = copy.deepcopy(method)
    with torch.no_grad():
        for parameter, old, now in zip(by_hand.parameters(), before, method.parameters(), strict=True):
            parameter.copy_(MOMENTUM * old + (1 - MOMENTUM) * now)
    found, expected = costs_of(scorer), costs_of(Scorer(FABRIC, by_hand, EXACT, reference=MOMENTUM))
    assert found.reference is not None
    torch.testing.assert_close(found.reference.cross, expected.cross, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found.reference.cross, found.cross, atol=1e-4)


def step_of(fabric: Fabric, method: SimSiam) -> Step:
    groups = parameter_groups(method, 0.0, True, method.constant_rate)
    return Step(
        fabric, method, create_optimizer("sgd", groups, 0.9), Rates(0.1, 0.0, 20, 0),
        policies.named(f"learnable({MOMENTUM})"), 3, steps=20,
    )  # fmt: skip


class Moving(Fabric):
    """Moves a module, as on a GPU; here to another dtype, for want of another device."""

    def setup(self, module: nn.Module, *optimizers: Optimizer, **options: Any) -> Any:
        return super().setup(module.double(), *optimizers, **options)


def test_the_average_is_where_fabric_has_moved_the_method() -> None:
    average = step_of(Moving(accelerator="cpu", devices=1), simsiam()).scorer.average
    assert average is not None
    assert {parameter.dtype for parameter in average.method.parameters()} == {torch.float64}


def test_the_average_follows_every_step() -> None:
    method = simsiam()
    step = step_of(FABRIC, method)
    average = step.scorer.average
    assert average is step.learners["average"]
    assert average is not None
    expected: list[torch.Tensor] = []
    for number in range(4):
        take(step, range(number, number + 1))
        now = [parameter.detach().clone() for parameter in method.parameters()]
        expected = expected or now
        expected = [MOMENTUM * old + (1 - MOMENTUM) * new for old, new in zip(expected, now, strict=True)]
        for weight, wanted in zip(average.method.parameters(), expected, strict=True):
            torch.testing.assert_close(weight.detach(), wanted, rtol=1e-5, atol=1e-6)
            assert not weight.requires_grad
        for buffer, its in zip(average.method.buffers(), method.buffers(), strict=True):  # BN's statistics
            assert torch.equal(buffer, its)


def test_equal_weights_cost_the_same_under_a_centre_that_has_moved() -> None:
    method = dino(tiny_vit)
    scorer = Scorer(FABRIC, method, EXACT, reference=MOMENTUM)
    scorer.follow()
    for buffer in method.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.linspace(0, 1, buffer.numel()).view_as(buffer))
    scorer.follow()
    found = costs_of(scorer)
    assert found.reference is not None
    torch.testing.assert_close(found.reference.cross, found.cross, rtol=1e-5, atol=1e-5)


def test_what_it_does_not_go_with() -> None:
    with pytest.raises(InputError, match="at least 0 and below 1"):
        policies.named("learnable(1)")
    with pytest.raises(InputError, match="give --score-depth 1 and --score-token-keep 1"):
        Scorer(FABRIC, simsiam(), Scoring(depth=0.5), reference=MOMENTUM)
