import pytest
import torch

from hardviews.errors import InputError, RunError
from hardviews.selection.costs import Costs
from tests.selection import brute_force as brute


@pytest.mark.parametrize("own", [False, True])
def test_total_of_every_combination(own: bool) -> None:
    plan = brute.PLANS[-1]
    costs = brute.random_costs(plan, 3, 0, own=own, integers=5)
    totals = brute.every_total(costs, plan)
    rows = brute.every_combination(plan)
    for row in range(0, len(rows), 17):
        assert torch.equal(costs.total(rows[row][:, None].expand(-1, 3)), totals[row])


def test_total_may_differ_in_choice_from_image_to_image() -> None:
    costs = brute.random_costs(brute.PAIRS, 2, 0)
    ids = torch.tensor([[0, 1], [3, 2]])
    expected = [(costs.cross[0, 3, 0] + costs.cross[3, 0, 0]) / 2, (costs.cross[1, 2, 1] + costs.cross[2, 1, 1]) / 2]
    torch.testing.assert_close(costs.total(ids), torch.stack(expected))


def test_total_of_all_has_gradients_of_its_terms_only() -> None:
    cross, own = torch.rand(2, 3, 4, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    costs = Costs(cross, own)
    costs.total(costs.all_ids()).sum().backward()  # type: ignore[no-untyped-call]
    expected = torch.full((2, 3, 4), 1 / 4)  # 2 targets × 2 other views
    expected[range(2), range(2)] = 0
    assert cross.grad is not None
    assert own.grad is not None
    torch.testing.assert_close(cross.grad, expected)
    torch.testing.assert_close(own.grad, torch.full((2, 4), 1 / 2))


@pytest.mark.parametrize(
    ("cross", "own", "message"),
    [
        (torch.zeros(2, 3), None, r"\[T, V, B\]"),
        (torch.zeros(4, 3, 2), None, "T target views of V views"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 4), r"own is \[T, B\] = \[2, 4\], not \[3, 4\]"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), None, "floating-point"),
    ],
)
def test_wrong_shapes_are_named(cross: torch.Tensor, own: torch.Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Costs(cross, own)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_finite(value: float) -> None:
    good, bad = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    bad[1, 2, 3] = value
    Costs(good, good[:, 0]).check()
    with pytest.raises(RunError, match="not finite"):
        Costs(bad).check()
    with pytest.raises(RunError, match="not finite"):
        Costs(good, bad[:, 2]).check()


def test_half_precision_is_cast_up_and_float64_stays() -> None:
    half = Costs(torch.zeros(2, 3, 4, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.bfloat16)).upcast()
    assert half.cross.dtype == torch.float32
    assert half.own is not None
    assert half.own.dtype == torch.float32
    double = Costs(torch.zeros(2, 3, 4, dtype=torch.float64))
    assert double.upcast() is double
