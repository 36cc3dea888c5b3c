"""Scoring leaves no trace: everything a forward could change is compared bit for bit, before and after."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from hardviews import HardViews, pairwise
from hardviews.selection.guard import untouched


class Restless(nn.Module):
    """Changes all that a forward can change, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8, momentum=None),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.LazyLinear(8),
            nn.BatchNorm1d(8),
        )
        self.queue: Tensor
        self.count: Tensor
        self.register_buffer("queue", torch.zeros(16, 8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        self.queue[: len(out)] = out.detach()
        self.count = self.count + 1
        random.random()
        np.random.rand()  # noqa: NPY002
        return out + 0.1 * torch.randn_like(out)


def restless() -> nn.Module:
    model = Restless()
    model(torch.rand(4, 3, 16, 16))
    return model


def vit() -> nn.Module:
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=4,
        drop_path_rate=0.5, attn_drop_rate=0.5, proj_drop_rate=0.5, pos_drop_rate=0.5,
    )  # fmt: skip
    return model


def mobilenet() -> nn.Module:
    model: nn.Module = timm.create_model("mobilenetv3_small_050", num_classes=4, drop_rate=0.5, drop_path_rate=0.5)
    assert any(isinstance(module, BatchNormAct2d) for module in model.modules())
    return model


def mixed() -> nn.Module:
    """Frozen norms and other parts that its owner has put in eval mode."""
    model = restless()
    for index, module in enumerate(model.modules()):
        if index % 3 == 0:
            module.training = False
    return model


MODELS = [restless, vit, mobilenet, mixed]


def trace(model: nn.Module) -> dict[str, Any]:
    """All that scoring must leave as it was."""
    generator = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(generator, dict)
    return {
        "values": {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]},
        "objects": {name: id(value) for name, value in [*model.named_parameters(), *model.named_buffers()]},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "tracking": {name: m.track_running_stats for name, m in model.named_modules() if isinstance(m, _NormBase)},
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (generator["state"]["key"].tolist(), generator["state"]["pos"]),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_equal(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_equal(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    else:
        assert before == after


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(1)


@pytest.mark.parametrize("make", MODELS)
def test_scoring_leaves_no_trace(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    candidates = [torch.rand(4, 3, 16, 16) for _ in range(4)]
    before = trace(model)
    HardViews(pairwise(model, distance), guard=model)(candidates)
    assert_equal(before, trace(model))


@pytest.mark.parametrize("make", MODELS)
def test_nothing_is_left_when_the_score_raises(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    candidates = [torch.rand(4, 3, 16, 16) for _ in range(4)]

    def fails(a: Tensor, b: Tensor) -> Tensor:
        raise ZeroDivisionError

    before = trace(model)
    with pytest.raises(ZeroDivisionError):
        HardViews(pairwise(model, fails), guard=[model])(candidates)
    assert_equal(before, trace(model))


def test_this_test_would_notice() -> None:
    torch.manual_seed(0)
    for make in MODELS:
        model = make()
        before = trace(model)
        with torch.no_grad():
            model(torch.rand(4, 3, 16, 16))
        with pytest.raises(AssertionError):
            assert_equal(before, trace(model))


@pytest.mark.parametrize("make", [vit, mobilenet])
def test_no_noise_in_the_scores(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.rand(4, 3, 16, 16)
    with untouched(model):
        assert torch.equal(model(x), model(x))
    assert not torch.equal(model(x), model(x))


def test_norms_judge_by_the_statistics_of_the_view() -> None:
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(3), torch.randn(8, 3, 5, 5) * 3 + 2
    with untouched(norm):
        out = norm(x)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(out, (x - mean) / (var + norm.eps).sqrt())


def test_a_frozen_norm_stays_frozen() -> None:
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(8, 3) * 3 + 2
    with untouched(norm):
        torch.testing.assert_close(norm(x), x / (1 + norm.eps) ** 0.5)


def test_shared_and_nested_modules() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, nn.Sequential(norm), nn.Dropout())
    before = trace(model)
    with untouched(model, norm), untouched(norm):
        model(torch.randn(4, 3))
        assert norm.training
        assert not model.training
    assert_equal(before, trace(model))


def test_buffers_saved_for_backward_are_not_rewritten() -> None:
    class Scale(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.full((3,), 2.0))
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight * self.scale

    model, x = Scale(), torch.rand(4, 3)
    loss = model(x).sum()
    with untouched(model):
        model(x)
    loss.backward()  # raises had the buffer been written to


def test_weights_cast_while_scoring_still_get_gradients() -> None:
    """Autocast caches cast weights; cast without gradient, they would carry none in the training forward."""

    def gradients(score: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        views = [torch.rand(4, 8) for _ in range(4)]
        hard = HardViews(pairwise(model, distance), guard=model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if score:
                hard.choose(views)
            distance(model(views[0]), model(views[1])).mean().backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad for parameter in model.parameters()]
        return [grad for grad in found if grad is not None]

    plain, scored = gradients(score=False), gradients(score=True)
    assert len(plain) == len(scored) == 4
    assert all(torch.equal(a, b) for a, b in zip(plain, scored, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_generators_are_as_they_were() -> None:
    model = nn.Dropout().cuda()
    x = torch.rand(8, device="cuda")
    before = torch.cuda.get_rng_state()
    with untouched(model):
        torch.rand_like(x)
    assert torch.equal(before, torch.cuda.get_rng_state())
