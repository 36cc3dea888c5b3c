"""Rates at the steps that matter."""

import math

import pytest
import torch
from torch import nn

from hardviews.errors import InputError
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.schedules import warmup_cosine


def test_warmup_is_linear_and_cosine_follows_torch() -> None:
    rates = [warmup_cosine(step, 100, 0.3, 0.01, 10) for step in range(100)]
    assert rates[0] == 0
    assert math.isclose(rates[5], 0.15)
    assert rates[10] == max(rates) == 0.3
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90, eta_min=0.01)
    for rate in rates[10:]:
        assert math.isclose(rate, theirs.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        theirs.step()


def network() -> nn.Module:
    module = nn.Module()
    module.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module.predictor = nn.Linear(4, 4)
    module.backbone[0].bias.requires_grad_(False)
    return module


def test_groups_hold_every_trainable_parameter_once() -> None:
    module = network()
    groups = parameter_groups(module, 0.1, decay_bias_and_norm=False, constant_rate=("predictor",))
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    by_kind = {(g["constant"], g["weight_decay"]): [p.ndim for p in g["params"]] for g in groups}
    assert by_kind == {(False, 0.1): [2], (False, 0.0): [1, 1], (True, 0.1): [2], (True, 0.0): [1]}
    assert {g["weight_decay"] for g in parameter_groups(module, 0.1, decay_bias_and_norm=True)} == {0.1}


def test_rates_leave_constant_groups_at_their_peak() -> None:
    groups = parameter_groups(network(), 0.0, True, ("predictor",))
    optimizer = create_optimizer("sgd", groups, 0.9)
    Rates(0.5, 0.0, 100, 10).set(optimizer, 55)
    assert {g["constant"]: g["lr"] for g in optimizer.param_groups} == {True: 0.5, False: 0.25}


def test_weight_decay_follows_its_cosine_in_decayed_groups_alone() -> None:
    module = network()
    optimizer = create_optimizer("adamw", parameter_groups(module, 0.04, decay_bias_and_norm=False), 0.0)
    rates = Rates(1.0, 0.0, 100, 10, 0.04, 0.4)
    for step, decay in ((0, 0.04), (50, 0.22), (100, 0.4)):
        rates.set(optimizer, step)
        assert all(g["weight_decay"] == pytest.approx(decay) for g in optimizer.param_groups if g["decayed"])
        assert {g["weight_decay"] for g in optimizer.param_groups if not g["decayed"]} == {0.0}
    constant = create_optimizer("adamw", parameter_groups(module, 0.04, decay_bias_and_norm=False), 0.0)
    Rates(1.0, 0.0, 100, 10, 0.04).set(constant, 50)
    assert {g["weight_decay"] for g in constant.param_groups if g["decayed"]} == {0.04}


def test_lars_leaves_undecayed_parameters_unadapted() -> None:
    weight, bias = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    module = nn.ParameterDict({"weight": weight, "bias": bias})
    optimizer = create_optimizer("lars", parameter_groups(module, 0.1, decay_bias_and_norm=False), 0.9)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    Rates(1.0, 0.0, 10, 0).set(optimizer, 0)
    weight.grad, bias.grad = torch.full((2, 2), 0.5), torch.full((2,), 0.5)
    optimizer.step()
    assert torch.allclose(bias, torch.full((2,), 2.5))  # plain SGD
    # You et al.: rate 0.001 · |w| / (|g| + decay · |w|), of the gradient with decay
    trust = 0.001 * 6 / (1 + 0.1 * 6)
    assert torch.allclose(weight, torch.full((2, 2), 3 - trust * (0.5 + 0.1 * 3)), atol=1e-5)


def test_unknown_optimizer_is_named() -> None:
    with pytest.raises(InputError, match="did you mean adamw"):
        create_optimizer("adam", [{"params": []}], 0.9)
