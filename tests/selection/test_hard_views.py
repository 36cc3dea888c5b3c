from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError, RunError
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import Choice, HardViews, gather, pairwise
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream
from tests.selection import brute_force as brute


def no_score(candidates: list[Tensor]) -> Costs:
    raise AssertionError("nothing should have been scored")


def no_render() -> list[Tensor]:
    raise AssertionError("nothing should have been rendered")


def labelled(plan: ViewPlan, batch: int) -> list[Tensor]:
    """Candidates whose pixels say which candidate of which image they are; slots differ in size."""
    return [
        (100.0 * v + torch.arange(batch))[:, None, None].expand(-1, 4 + slot, 2)
        for v, slot in enumerate(plan.slot_of())
    ]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return -F.cosine_similarity(a, b)


@pytest.mark.parametrize("plan", [*brute.PLANS, brute.DINO])
def test_kept_views_are_those_chosen(plan: ViewPlan) -> None:
    costs = brute.random_costs(plan, 5, 0, integers=3)
    candidates = labelled(plan, 5)
    hard = HardViews(lambda _: costs, plan)
    choice = hard.choose(candidates)
    kept = hard(candidates)
    assert torch.equal(choice.ids, HardViews(lambda _: costs, plan, "hardest").choose(candidates).ids)
    assert len(kept) == plan.keep
    for k, view in enumerate(kept):
        assert view.shape == candidates[int(choice.ids[k, 0])].shape
        assert torch.equal(view[:, 0, 0], 100.0 * choice.ids[k] + torch.arange(5))


def test_the_choice_says_what_it_costs() -> None:
    costs = brute.random_costs(brute.PLANS[-1], 5, 0, own=True)
    choice = HardViews(lambda _: costs, brute.PLANS[-1]).choose(labelled(brute.PLANS[-1], 5))
    totals = brute.every_total(costs, brute.PLANS[-1])
    assert choice.kept is not None
    assert choice.mean is not None
    torch.testing.assert_close(choice.kept, totals.amax(0))
    torch.testing.assert_close(choice.mean, totals.mean(0))


def test_pairwise_equals_every_pair_judged_by_itself() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    views = [torch.randn(8, 6) for _ in range(5)]
    hard = HardViews(pairwise(model, cosine), guard=model)
    choice = hard.choose(views)
    assert len(calls) == 5  # once per candidate
    pairs = brute.every_combination(brute.plan_of((5, 2, True)))
    losses = torch.stack([cosine(model(views[a]), model(views[b])) for a, b in pairs.tolist()])
    assert torch.equal(choice.ids, pairs[losses.argmax(0)].T)
    assert choice.kept is not None
    torch.testing.assert_close(choice.kept, losses.amax(0))
    assert not choice.kept.requires_grad
    kept = hard(views)
    torch.testing.assert_close(cosine(model(kept[0]), model(kept[1])), losses.amax(0))


def test_pairwise_with_tuples_and_more_than_two_kept() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 4), nn.Linear(4, 4)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        z = first(x)
        return second(z), z

    def loss(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        return (cosine(a[0], b[1]) + cosine(b[0], a[1])) / 2

    views = [torch.randn(8, 6) for _ in range(5)]
    choice = HardViews(pairwise(encode, loss), guard=(first, second), keep=3).choose(views)
    outputs = [encode(view) for view in views]
    triples = brute.every_combination(brute.plan_of((5, 3, True)))
    means = [sum(loss(outputs[x], outputs[y]) for x, y in ((a, b), (a, c), (b, c))) for a, b, c in triples.tolist()]
    assert torch.equal(choice.ids, triples[torch.stack([Tensor(mean) for mean in means]).argmax(0)].T)


def test_pairwise_wants_a_loss_per_image() -> None:
    hard = HardViews(pairwise(nn.Identity(), lambda a, b: cosine(a, b).mean()))
    with pytest.raises(InputError, match=r"one value per image, \[8\]"):
        hard([torch.randn(8, 6) for _ in range(4)])


def test_pairwise_unwraps_data_parallel() -> None:
    inner = nn.Linear(6, 4)
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = inner  # what its constructor does, without a process group
    views = [torch.randn(8, 6) for _ in range(4)]
    through = HardViews(pairwise(wrapped, cosine), guard=wrapped).choose(views)
    assert torch.equal(through.ids, HardViews(pairwise(inner, cosine)).choose(views).ids)


def test_where_all_are_kept_nothing_is_scored() -> None:
    plan = brute.DINO.without_selection()
    candidates = labelled(plan, 3)
    hard = HardViews(no_score, plan)
    kept = hard(candidates)
    assert all(a is b for a, b in zip(kept, candidates, strict=True))
    expected = torch.arange(10)[:, None].expand(-1, 3)
    assert torch.equal(hard.choose(candidates).ids, expected)
    assert torch.equal(hard.choose(no_render, brute.views_of(plan, 3)).ids, expected)
    assert len(HardViews(no_score)(candidates[:2])) == 2


@pytest.mark.parametrize("policy", ["random", "lowest_iou", "highest_iou"])
def test_policies_without_costs_make_no_forward(policy: str) -> None:
    choice = HardViews(no_score, brute.DINO, policy).choose(no_render, brute.views_of(brute.DINO, 3))
    assert choice.ids.shape == (10, 3)
    assert choice.kept is None
    assert choice.mean is None


def test_random_without_views_draws_from_the_generator() -> None:
    candidates = labelled(brute.DINO, 3)
    choices = [HardViews(no_score, brute.DINO, "random", seed=seed).choose(candidates).ids for seed in (0, 0, 1)]
    assert torch.equal(choices[0], choices[1])
    assert not torch.equal(choices[0], choices[2])
    own = HardViews(no_score, brute.DINO, "random", seed=5).choose(candidates, None, torch.Generator().manual_seed(0))
    assert torch.equal(own.ids, choices[0])


def test_candidates_are_made_once_and_outside_of_the_guard() -> None:
    made: list[bool] = []
    model = nn.Dropout()

    def render() -> list[Tensor]:
        made.append(model.training)
        return [torch.randn(3, 6) for _ in range(4)]

    HardViews(pairwise(model, cosine), brute.PAIRS, guard=model).choose(render, brute.views_of(brute.PAIRS, 3))
    HardViews(pairwise(model, cosine), guard=model).choose(render)
    assert made == [True, True]


def test_targets_of_the_kept_views_are_handed_on() -> None:
    @dataclass
    class Encoded:
        features: Tensor  # [T, B, D]

        def take(self, ids: Tensor, /) -> "Encoded":
            return Encoded(self.features[ids, torch.arange(ids.shape[1])])

    costs = brute.random_costs(brute.DINO, 3, 0)
    features = torch.randn(4, 3, 7)
    choice = HardViews(lambda _: (costs, Encoded(features)), brute.DINO).choose(labelled(brute.DINO, 3))
    assert isinstance(choice.targets, Encoded)
    assert choice.targets.features.shape == (2, 3, 7)
    assert torch.equal(choice.targets.features[1, 2], features[choice.ids[1, 2], 2])


@pytest.mark.parametrize("policy", ["hardest", "easiest", "random", "sampled(8)", "lowest_iou", "highest_iou"])
@pytest.mark.parametrize("plan", [*brute.PLANS, brute.DINO])
def test_of_no_images_no_views_are_kept(plan: ViewPlan, policy: str) -> None:
    """Where a filter has left nothing of a batch. What policies draw is drawn, so that processes stay in step."""
    candidates, views = labelled(plan, 0), brute.views_of(plan, 0)
    hard, other = HardViews(no_score, plan, policy), HardViews(lambda _: brute.random_costs(plan, 5, 0), plan, policy)
    choice = hard.choose(candidates, views)
    assert torch.equal(choice.ids, brute.first_best(brute.random_costs(plan, 0, 0), plan))  # [K, 0]
    other.choose(labelled(plan, 5), brute.views_of(plan, 5))
    assert torch.equal(hard.generator.get_state(), other.generator.get_state())
    if "iou" not in policy:
        assert [view.shape for view in hard(candidates)] == [(0, 4 + slot, 2) for slot in plan.slot_of_kept()]
    if policy == "hardest":
        costs = pairwise(nn.Linear(6, 4), cosine)([torch.empty(0, 6) for _ in range(plan.targets)])
        assert isinstance(costs, Costs)
        assert costs.cross.shape == (plan.targets, plan.targets, 0)


def test_half_precision_costs_are_totalled_in_float32() -> None:
    cross = torch.rand(4, 4, 3)
    choice = HardViews(lambda _: Costs(cross.bfloat16())).choose(labelled(brute.PAIRS, 3))
    assert choice.kept is not None
    assert choice.kept.dtype == torch.float32


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_costs_that_are_not_finite_end_the_run(value: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        HardViews(pairwise(nn.Identity(), lambda a, b: cosine(a, b) * value))([torch.rand(3, 6) for _ in range(4)])


def test_views_may_come_stacked() -> None:
    hard = HardViews(lambda _: Costs(torch.arange(48.0).view(4, 4, 3)), brute.PAIRS)
    views = labelled(brute.PAIRS, 3)
    for ours, theirs in zip(hard(torch.stack(views)), hard(views), strict=True):  # type: ignore[arg-type]
        assert torch.equal(ours, theirs)


def test_wrong_input_is_named_in_one_line() -> None:
    hard = HardViews(lambda _: Costs(torch.zeros(4, 4, 3)), brute.PAIRS)
    with pytest.raises(InputError, match="3 candidate views were given; the plan draws 4"):
        hard(labelled(brute.PAIRS, 3)[:3])
    with pytest.raises(InputError, match="list of V tensors"):
        hard([labelled(brute.PAIRS, 3), [0], [1], [2]])  # type: ignore[list-item]
    for nothing in (None, torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"list of V tensors \[B, \.\.\.\], one per view, not (NoneType|Tensor)$"):
            hard(nothing)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="one per view, not"):
            hard.choose(nothing)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one per view, not NoneType"):
        hard.choose(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="different batch sizes: 2, 3"):
        hard([torch.zeros(2, 1), *labelled(brute.PAIRS, 3)[1:]])
    with pytest.raises(InputError, match=r"costs \[4, 4, 3\]; .* \[4, 4, 5\]"):
        hard(labelled(brute.PAIRS, 5))
    with pytest.raises(InputError, match="must have the same shape"):
        hard([torch.zeros(3, 1), *labelled(brute.PAIRS, 3)[1:]])
    with pytest.raises(InputError, match="single number"):
        HardViews(no_score)([torch.tensor(1.0)] * 4)
    with pytest.raises(InputError, match="keeps 2 of 1"):
        HardViews(no_score)(labelled(brute.PAIRS, 3)[:1])
    with pytest.raises(InputError, match="unknown policy 'hardset'; did you mean hardest"):
        HardViews(no_score, policy="hardset")


def test_a_policy_of_ones_own_is_checked() -> None:
    def last_two(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: torch.Generator) -> Tensor:
        assert costs is not None
        return torch.tensor([[2], [3]]).expand(2, costs.cross.shape[2])

    def one_too_few(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: torch.Generator) -> Tensor:
        return last_two(costs, plan, views, generator)[1:]

    candidates, costs = labelled(brute.PAIRS, 3), brute.random_costs(brute.PAIRS, 3, 0)
    kept = HardViews(lambda _: costs, policy=last_two)(candidates)
    assert torch.equal(kept[1], candidates[3])
    with pytest.raises(InputError, match=r"ids \[1, 3\], not int64 \[2, 3\]"):
        HardViews(lambda _: costs, policy=one_too_few)(candidates)


def test_gather_is_by_index() -> None:
    ids = torch.tensor([[0, 1, 0], [2, 2, 3]])
    kept = gather(labelled(brute.PAIRS, 3), ids, brute.PAIRS)
    assert [view[:, 0, 0].tolist() for view in kept] == [[0, 101, 2], [200, 201, 302]]
    assert isinstance(HardViews(no_score, brute.PAIRS, "random").choose(labelled(brute.PAIRS, 3)), Choice)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", ["hardest", "easiest", "random", "sampled(32)", "lowest_iou", "highest_iou"])
def test_on_a_gpu_the_same_is_chosen_and_nothing_waits(policy: str) -> None:
    costs, views = brute.random_costs(brute.DINO, 6, 0, own=True, integers=3), brute.views_of(brute.DINO, 6)
    candidates = labelled(brute.DINO, 6)
    expected = HardViews(lambda _: costs, brute.DINO, policy).choose(candidates, views, stream(0, "policy", 0)).ids
    there = Costs(costs.cross.cuda(), None if costs.own is None else costs.own.cuda())
    views = views.to("cuda")
    candidates = [view.cuda() for view in candidates]
    hard = HardViews(lambda _: there, brute.DINO, policy)
    hard.choose(candidates, views, stream(0, "policy", 0))  # caches what depends on the plan alone
    hard = HardViews(lambda _: there, brute.DINO, policy)
    hard.choose(candidates, views, stream(0, "policy", 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        ids = hard.choose(candidates, views, stream(0, "policy", 0)).ids
        gather(candidates, ids, brute.DINO)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(ids.cpu(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_costs_that_are_not_finite_are_found_a_step_later() -> None:
    candidates = [view.cuda() for view in labelled(brute.PAIRS, 3)]
    cross = torch.zeros(4, 4, 3, device="cuda")
    hard = HardViews(lambda _: Costs(cross), brute.PAIRS)
    hard.choose(candidates)
    cross[0, 1, 2] = torch.nan
    hard.choose(candidates)
    cross.zero_()
    torch.cuda.synchronize()
    with pytest.raises(RunError, match="not finite"):
        hard.choose(candidates)
