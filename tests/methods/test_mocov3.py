"""MoCo v3 against lightly's loss, against a training step written out plainly, and its fixed patch projection."""

import math
from copy import deepcopy
from itertools import product

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Progress
from hardviews.methods.mocov3 import MoCoV3, MoCoV3Encoding
from hardviews.networks.backbones import create_backbone
from hardviews.selection.guard import untouched
from hardviews.selection.search import hardest_ids
from tests.methods.multi_crop import tiny_vit
from tests.methods.plain_steps import sgd, steps_of
from tests.methods.tiny import TinyBackbone


def mocov3(keep: int = 1, **settings: float) -> MoCoV3:
    torch.manual_seed(0)
    plan = MoCoV3.default_plan(16, keep=keep)
    return MoCoV3(TinyBackbone(), plan, dim=12, hidden_dim=24, **settings).double()  # type: ignore[arg-type]


def views(count: int, batch: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(batch, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(count)]


def moved(method: MoCoV3) -> MoCoV3:
    """With a teacher that is not the student."""
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_and_gradients_equal_lightlys(temperature: float) -> None:
    """lightly's loss of a query and detached keys, where only keys of the other view are negatives: its memory bank
    holds exactly the keys of the other images."""
    method = moved(mocov3(temperature=temperature))
    encoding = method(views(2))
    ours, batch = method.loss(encoding), 7
    theirs = torch.zeros((), dtype=torch.float64)
    for a, b in ((0, 1), (1, 0)):
        query, key = F.normalize(encoding.query[a], dim=1), F.normalize(encoding.key[b], dim=1)
        for image in range(batch):
            loss = NTXentLoss(temperature=temperature, memory_bank_size=(batch - 1, 12))
            others = torch.cat([key[:image], key[image + 1 :]])
            loss.memory_bank.bank, loss.memory_bank.bank_ptr = others, torch.zeros(1, dtype=torch.long)
            term = loss(query[image : image + 1].requires_grad_(), key[image : image + 1])
            theirs = theirs + 2 * temperature * term / batch
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    for mine, other in zip(
        torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-12)


def test_all_pairs_at_once_equal_each_pair_by_itself() -> None:
    method = moved(mocov3(keep=2, temperature=0.3))
    encoding = method(views(4))
    cross = method.costs(encoding).cross
    query, key = F.normalize(encoding.query, dim=-1), F.normalize(encoding.key, dim=-1)
    pairs = []
    for t in range(4):
        for v in range(4):
            one = 1.2 * F.cross_entropy(query[v] @ key[t].T / 0.3, torch.arange(7), reduction="none")
            torch.testing.assert_close(cross[t, v], one)
            pairs += [one] if t != v else []
    # The loss of four kept views is the mean of all ordered pairs.
    torch.testing.assert_close(method.loss(encoding), torch.stack(pairs).mean())
    two = MoCoV3Encoding(encoding.query[[0, 3]], encoding.key[[0, 3]])
    torch.testing.assert_close(method.costs(two).cross[0, 1], cross[0, 3])


def test_the_whole_of_training_steps_equals_a_plain_implementation() -> None:
    steps = 5
    method = mocov3(temperature=0.5, teacher_momentum=0.9)
    method.plan = method.plan.without_selection()
    student = nn.ModuleList([deepcopy(method.backbone), deepcopy(method.projector), deepcopy(method.predictor)])
    teacher = deepcopy(student[:2])
    optimizer = sgd(student.parameters())
    for index, pair, _, loss in steps_of(method, steps):
        q1, q2 = (student[2](student[1](student[0](view))) for view in pair)
        with torch.no_grad():
            k1, k2 = (teacher[1](teacher[0](view)) for view in pair)
        plain = torch.zeros((), dtype=torch.float64)
        for q, k in ((q1, k2), (q2, k1)):
            logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.5
            plain = plain + 2 * 0.5 * F.cross_entropy(logits, torch.arange(len(q)))
        assert loss == pytest.approx(plain.item(), abs=1e-9)
        optimizer.zero_grad()
        plain.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        momentum = 1 - 0.1 * (1 + math.cos(math.pi * index / steps)) / 2
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student[:2].parameters(), strict=True):
                old.copy_(momentum * old + (1 - momentum) * new)
    ours = [method.backbone, method.projector, method.predictor, method.teacher.backbone, method.teacher.projector]
    for mine, other in zip(ours, [*student, *teacher], strict=True):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_patch_projection_of_a_vit_is_fixed(fixed: bool) -> None:
    vit = tiny_vit()
    method = MoCoV3(vit, MoCoV3.default_plan(16), dim=12, hidden_dim=24, fixed_patch_projection=fixed)
    method.loss(method([view.float() for view in views(2)])).backward()  # type: ignore[no-untyped-call]
    projection = list(vit.patch_embed.proj.parameters())  # type: ignore[union-attr]
    assert [p.requires_grad for p in projection] == [not fixed] * 2
    assert [p.grad is None for p in projection] == [fixed] * 2
    assert all(p.grad is not None for n, p in vit.named_parameters() if not n.startswith("patch_embed"))


def test_a_resnet_trains_whole() -> None:
    backbone = create_backbone("resnet10t", 16, channels=[8, 8, 8, 8], stem_width=8)
    method = MoCoV3(backbone, MoCoV3.default_plan(16), dim=12, hidden_dim=24)
    assert all(parameter.requires_grad for parameter in method.backbone.parameters())


def test_the_projector_has_as_many_layers_as_asked() -> None:
    counts = [sum(isinstance(m, nn.Linear) for m in mocov3(projector_layers=n).projector) for n in (1, 2, 3)]
    assert counts == [1, 2, 3]


def test_a_teacher_with_bn_encodes_again() -> None:
    method = mocov3()
    assert method.reusable(method(views(4))) is None
    method.eval()
    assert method.reusable(method(views(4))) is not None


def test_the_teacher_compares_keys_in_the_students_place() -> None:
    method = moved(mocov3())
    method.progress = Progress(3, 10, 1)
    with torch.no_grad():
        costs, _ = method.teacher_costs(views(4))
    keys = method._keys(views(4))
    torch.testing.assert_close(costs.cross, method.costs(MoCoV3Encoding(keys, keys)).cross)


def test_scoring_leaves_no_trace_and_brute_force_finds_its_choice() -> None:
    method = moved(mocov3())
    before = deepcopy(method.state_dict())
    with untouched(method), torch.no_grad():
        costs = method.costs(method(views(4)))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    pairs = list(product((0, 1), (2, 3)))
    totals = torch.stack([costs.total(torch.tensor(pair)[:, None].expand(2, 7)) for pair in pairs])
    best = torch.tensor(pairs)[totals.argmax(0)].T
    assert torch.equal(hardest_ids(costs, method.plan), best)


def test_costs_stay_float32_under_autocast() -> None:
    method = mocov3().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = method([view.float() for view in views(2)])
        inside = method.costs(encoding).cross
    assert inside.dtype == torch.float32
    assert torch.equal(inside, method.costs(encoding).cross)


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"method\.temperature must be above 0"):
        mocov3(temperature=0)
    with pytest.raises(InputError, match="at least one feature"):
        MoCoV3(TinyBackbone(), MoCoV3.default_plan(16), hidden_dim=0)
    with pytest.raises(InputError, match=r"method\.projector_layers must be at least 1"):
        mocov3(projector_layers=0)
    with pytest.raises(InputError, match=r"teacher_momentum is 0 to 1, not 2"):
        mocov3(teacher_momentum=2)
    with pytest.raises(InputError, match="keeps 0 of 0 views"):
        mocov3(keep=0)
