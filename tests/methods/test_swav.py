"""SwAV against lightly's loss, against a training step written out plainly, and its queue."""

from copy import deepcopy
from itertools import combinations, product

import pytest
import torch
from lightly.loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightlys
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Progress
from hardviews.methods.swav import SwAV, SwAVEncoding
from hardviews.selection.guard import untouched
from hardviews.selection.search import hardest_ids
from hardviews.views.plan import ViewPlan
from tests.methods.multi_crop import pictures, small
from tests.methods.plain_steps import PER_EPOCH, sgd, steps_of
from tests.methods.tiny import TinyBackbone

PROTOTYPES, DIM = 9, 6


def swav(plan: ViewPlan | None = None, **settings: float) -> SwAV:
    torch.manual_seed(0)
    keywords = {"prototypes": PROTOTYPES, "dim": DIM, "hidden_dim": 16} | settings
    return SwAV(TinyBackbone(), plan or small(SwAV.default_plan(16)), **keywords).double()  # type: ignore[arg-type]


def scores(method: SwAV, vectors: Tensor) -> list[Tensor]:
    return [F.normalize(view, dim=-1) @ method.prototypes.T for view in vectors]


def filled(method: SwAV) -> SwAV:
    """With a queue of some earlier embeddings, and far enough for it to be used."""
    method.embeddings.copy_(F.normalize(torch.randn_like(method.embeddings), dim=1))
    method.progress = Progress(30, 100, 2)
    return method


@pytest.mark.parametrize("queue", [0, 12])
def test_loss_and_gradients_equal_lightlys(queue: int) -> None:
    method = filled(swav(queue=queue))
    encoding = method(pictures(method.plan, kept=True))
    ours, logits = method.loss(encoding), scores(method, encoding.projection)
    earlier = [method.embeddings @ method.prototypes.T] * 2 if queue else None
    theirs = SwaVLoss()(logits[:2], logits[2:], earlier)
    torch.testing.assert_close(ours[None], theirs, rtol=1e-9, atol=0)
    trained = list(method.parameters())
    for mine, other in zip(
        torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-12)


def test_all_pairs_at_once_equal_each_by_itself() -> None:
    """A candidate's code depends on the same view of other images, not on the image's other candidates."""
    method = filled(swav(queue=12))
    with torch.no_grad():
        encoding = method(pictures(method.plan))
        cross = method.costs(encoding).cross
        kept = [0, 3, 5, 6]  # two global candidates and two local ones
        training = method.costs(SwAVEncoding(encoding.projection[kept])).cross
    assert cross.shape == (4, 8, 5)
    torch.testing.assert_close(training, cross[[0, 3]][:, kept])
    for t in range(4):
        code = F.normalize(encoding.projection[t], dim=-1)
        q = lightlys(torch.cat([code, method.embeddings]) @ method.prototypes.T)[:5]
        for v, logits in enumerate(scores(method, encoding.projection)):
            torch.testing.assert_close(cross[t, v], -(q * (logits / 0.1).log_softmax(1)).sum(1))


def test_the_whole_of_training_steps_equals_a_plain_implementation() -> None:
    """With Sinkhorn-Knopp as in the paper's algorithm, a queue from the second epoch on, and frozen prototypes."""
    steps, queue = 6, 10
    method = swav(small(SwAV.default_plan(16)).without_selection(), queue=queue, queue_from=1)
    method.double()
    network = nn.ModuleList([deepcopy(method.backbone), deepcopy(method.projector)])
    prototypes = nn.Parameter(method.prototypes.detach().clone())
    optimizer = sgd([*network.parameters(), prototypes])
    earlier: list[Tensor] = []
    for index, views, _, loss in steps_of(method, steps):
        both = [torch.cat(views[:2]), torch.cat(views[2:])]  # one batch for each size
        embedded = F.normalize(network[1](torch.cat([network[0](x) for x in both])), dim=1).chunk(4)
        z = [x @ prototypes.T for x in embedded]
        plain = torch.zeros((), dtype=torch.float64)
        for t in range(2):
            with torch.no_grad():
                used = embedded[t]
                if index >= PER_EPOCH and sum(map(len, earlier)) >= queue:
                    used = torch.cat([used, torch.cat(earlier[::-1])[:queue]])
                q = (used @ prototypes.T / 0.05).exp().T
                for _ in range(3):
                    q = q / q.sum(1, keepdim=True) / PROTOTYPES
                    q = q / q.sum(0, keepdim=True) / len(used)
                q = (q * len(used)).T[:6]
            for v in range(4):
                if v != t:
                    plain = plain - (q * (z[v] / 0.1).log_softmax(1)).sum(1).mean() / 6
        assert loss == pytest.approx(plain.item(), abs=1e-9), index
        optimizer.zero_grad()
        plain.backward()  # type: ignore[no-untyped-call]
        if index < PER_EPOCH:
            prototypes.grad = None
        optimizer.step()
        with torch.no_grad():
            prototypes.copy_(F.normalize(prototypes, dim=1))
        earlier.append(embedded[0].detach())
    torch.testing.assert_close(method.prototypes, prototypes, rtol=0, atol=1e-9)
    torch.testing.assert_close(method.embeddings, torch.cat(earlier[::-1])[:queue], rtol=0, atol=1e-9)
    for mine, other in zip([method.backbone, method.projector], network, strict=True):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=1e-9)


def test_the_queue_is_used_once_it_is_full_and_its_epoch_is_there() -> None:
    method = filled(swav(queue=12, queue_from=2))
    encoding = method(pictures(method.plan))
    used = {}
    for step in (2, 3, 4, 8):  # of five images, two in an epoch
        method.progress = Progress(step, 100, 2)
        used[step] = method.costs(encoding).cross
    plain = swav(queue=0).costs(encoding).cross
    assert torch.equal(used[2], plain)
    assert torch.equal(used[3], plain)
    assert not torch.equal(used[4], plain)
    assert torch.equal(used[4], used[8])


def test_scoring_leaves_no_trace_and_brute_force_finds_its_choice() -> None:
    method = filled(swav(queue=12))
    before = deepcopy(method.state_dict())
    with untouched(method), torch.no_grad():
        costs = method.costs(method(pictures(method.plan)))
    choices = [(*a, *b) for a, b in product(combinations(range(4), 2), combinations(range(4, 8), 2))]
    totals = torch.stack([costs.total(torch.tensor(choice)[:, None].expand(4, 5)) for choice in choices])
    assert torch.equal(hardest_ids(costs, method.plan), torch.tensor(choices)[totals.argmax(0)].T)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert "embeddings" in before


def test_prototypes_keep_length_1_and_what_has_it_stays() -> None:
    method = swav(queue=3).float()
    encoding = method([view.float() for view in pictures(method.plan, kept=True)])
    before = method.prototypes.detach().clone()
    method.after_step(SwAVEncoding(encoding.projection.detach()))
    assert torch.equal(method.prototypes, before)
    with torch.no_grad():
        method.prototypes.mul_(1.5)
    method.after_step(SwAVEncoding(encoding.projection.detach()))
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(PROTOTYPES))
    newest = F.normalize(encoding.projection[0, :3].detach(), dim=-1)
    torch.testing.assert_close(method.embeddings, newest)  # a batch that is larger than the queue


def test_prototypes_are_frozen_for_the_first_epoch() -> None:
    method = swav(freeze_prototypes=1)
    for step, frozen in ((0, True), (9, True), (10, False)):
        method.progress = Progress(step, 100, 10)
        method.loss(method(pictures(method.plan, kept=True))).backward()  # type: ignore[no-untyped-call]
        method.after_backward()
        assert (method.prototypes.grad is None) == frozen


def test_costs_stay_float32_under_autocast() -> None:
    method = swav().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = method([view.float() for view in pictures(method.plan)])
        inside = method.costs(encoding).cross
    assert inside.dtype == torch.float32
    assert torch.equal(inside, method.costs(encoding).cross)


def test_default_plan_draws_4_12_and_keeps_2_6() -> None:
    plan = SwAV.default_plan(224)
    assert [(slot.draw, slot.keep, slot.size) for slot in plan.slots] == [(4, 2, 224), (12, 6, 96)]
    assert len(SwAV.default_plan(224, locals=0).slots) == 1


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="epsilon 0 must be above 0"):
        swav(epsilon=0)
    with pytest.raises(InputError, match="at least one feature, got 8, 16, 0"):
        swav(dim=0)
    with pytest.raises(InputError, match="iterations 0 must be at least 1"):
        swav(iterations=0)
    with pytest.raises(InputError, match="queue -1, queue_from 15: each must be at least 0"):
        swav(queue=-1)
    with pytest.raises(InputError, match=r"plan\.locals"):
        SwAV.default_plan(32, locals=-1)
    with pytest.raises(InputError, match=r"plan\.strength"):
        SwAV.default_plan(32, strength=3)


def test_an_average_of_prototypes_is_taken_as_unit_vectors() -> None:
    """As the average of weights is that ``learnable(0.99)`` compares with."""
    method = swav().requires_grad_(False)
    encoding = method(pictures(method.plan))
    with torch.no_grad():
        method.prototypes.mul_(0.5)
    shrunk = method.costs(encoding).cross
    with torch.no_grad():
        method.prototypes.mul_(2)
    assert torch.allclose(shrunk, method.costs(encoding).cross, atol=1e-12)
