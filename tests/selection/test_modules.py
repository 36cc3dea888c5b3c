"""A model whose views are scored is guarded however the score function comes by it, without being named twice."""

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardviews import Costs, HardViews, pairwise
from hardviews.selection.modules import modules_of
from tests.selection.test_guard import assert_equal, distance, restless, trace

GLOBAL = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout())


def through_a_global(view: Tensor) -> Tensor:
    outputs: list[Tensor] = [GLOBAL(part) for part in (view,)]  # looked up by the comprehension, not by the function
    return outputs[0]


def through_another_function(view: Tensor) -> Tensor:
    return through_a_global(view) * 2


class Trainer:
    """No module, but has one."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.losses = model, [0.5] * 1000

    def encode(self, view: Tensor) -> Tensor:
        out: Tensor = self.model(view)
        return out

    __call__ = encode


class Bound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = restless()

    def encode(self, view: Tensor) -> Tensor:
        out: Tensor = self.net(view)
        return out


def wrapped(model: nn.Module) -> nn.Module:
    """As DistributedDataParallel's constructor does, without a process group."""
    found = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(found)
    found.module = model
    return found


def closure(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def encode(view: Tensor) -> Tensor:
        out: Tensor = model(view)
        return out

    return encode


def through_an_attribute(model: nn.Module) -> Callable[[Tensor], Tensor]:
    trainer = Trainer(model)
    return lambda view: trainer.model(view)


def with_default(view: Tensor, model: nn.Module) -> Tensor:
    out: Tensor = model(view)
    return out


def some_views(size: int) -> list[Tensor]:
    return [torch.rand(4, 3, size, size) for _ in range(4)]


@pytest.mark.parametrize(
    "encoder",
    [
        lambda model: model,
        wrapped,
        closure,
        lambda model: closure(closure(model)),  # type: ignore[arg-type]
        lambda model: torch.enable_grad()(closure(model)),
        lambda model: model.forward,
        lambda model: Trainer(model).encode,
        lambda model: Trainer(model.forward).encode,
        lambda model: Trainer(lambda view: model(view)).encode,
        Trainer,
        through_an_attribute,
        lambda model: partial(with_default, model=model),
        lambda model: lambda view, nets={"student": [model]}: nets["student"][0](view),
    ],
)
def test_the_model_of_pairwise_is_guarded(encoder: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    model = restless()
    hard = HardViews(pairwise(encoder(model), distance))
    views, before = some_views(16), trace(model)
    found = hard(views)
    assert_equal(before, trace(model))
    named = HardViews(pairwise(model, distance), guard=model)(views)  # chooses the same
    assert all(torch.equal(a, b) for a, b in zip(found, named, strict=True))


@pytest.mark.parametrize("encode", [through_a_global, through_another_function])
def test_globals_are_guarded(encode: Callable[[Tensor], Tensor]) -> None:
    views, before = some_views(2), trace(GLOBAL)
    HardViews(pairwise(encode, distance))(views)
    assert_equal(before, trace(GLOBAL))
    with torch.no_grad():
        encode(views[0])
    with pytest.raises(AssertionError):  # so there was something to guard
        assert_equal(before, trace(GLOBAL))


def test_the_loss_is_guarded_too() -> None:
    predictor = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12))
    views, before = some_views(2), trace(predictor)
    HardViews(pairwise(nn.Flatten(), lambda a, b: distance(predictor(a), b)))(views)
    assert_equal(before, trace(predictor))


def test_so_is_the_object_whose_method_scores() -> None:
    class Method(Bound):
        def costs(self, views: list[Tensor]) -> Costs:
            out = torch.stack([self.encode(view) for view in views])
            return Costs((out[:, None] - out[None]).square().mean(-1))

    method = Method()
    views, before = some_views(16), trace(method)
    HardViews(method.costs)(views)
    assert_equal(before, trace(method))


def test_a_guard_that_is_named_is_added() -> None:
    """Of a model that lies too deep to be found."""
    model = restless()
    deep = SimpleNamespace(inner=SimpleNamespace(model=model))
    score, views = pairwise(lambda view: deep.inner.model(view), distance), some_views(16)
    assert modules_of(score) == []
    before = trace(model)
    HardViews(score, guard=model)(views)
    assert_equal(before, trace(model))
    hard = HardViews(score)
    with pytest.warns(UserWarning, match="found no module"):
        hard(views)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hard(views)  # it is said once
        HardViews(score, guard=())(views)


def test_a_model_that_is_made_later_is_found_too() -> None:
    """As in a notebook, whose cells are run again."""

    def encode(view: Tensor) -> Tensor:
        out: Tensor = model(view)
        return out

    score = pairwise(encode, distance)
    model = restless()
    assert modules_of(score) == [model]
    model = restless()
    assert modules_of(score) == [model]


def test_what_has_no_module() -> None:
    assert modules_of(pairwise(torch.flatten, distance)) == []
    assert modules_of(len) == []
    holder = Trainer(nn.Identity())
    holder.model = [nn.Identity()] * 1000  # type: ignore[assignment]
    assert modules_of(holder.encode) == []  # so many are data
