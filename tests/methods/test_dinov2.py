"""DINOv2's terms against lightly's, against training steps written out plainly, and the Gram teacher."""

import math
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.loss.swav_loss import sinkhorn
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Progress
from hardviews.methods.dinov2 import DINOv2, DINOv2Encoding
from hardviews.networks.backbones import create_backbone
from hardviews.networks.masked_vit import tokens
from hardviews.networks.regularizers import gram, koleo
from hardviews.selection.guard import untouched
from hardviews.selection.search import hardest_ids
from hardviews.views.plan import ViewPlan
from tests.methods import multi_crop
from tests.methods.multi_crop import PROTOTYPES, pictures, small, tiny_vit
from tests.methods.plain_steps import PER_EPOCH, sgd, steps_of

SIDE = 4  # patches of a global view


def dinov2(plan: ViewPlan | None = None, vit: nn.Module | None = None, **settings: float) -> DINOv2:
    return multi_crop.dinov2(plan, vit, **settings).double()


def moved(method: DINOv2) -> DINOv2:
    """With teachers that are not the student, and past the warm-up."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for teacher in (method.teacher, method.gram_teacher):
            for parameter in teacher.parameters() if teacher is not None else ():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    method.progress = Progress(50, 100, 1)
    return method


def hidden(views: int, batch: int = 5) -> Tensor:
    """Masks of the global views; some views hide nothing."""
    generator = torch.Generator().manual_seed(2)
    order = torch.rand(views, batch, SIDE**2, generator=generator).argsort(-1)
    count = torch.randint(0, 9, (views, batch, 1), generator=generator)
    return (order < count).view(views, batch, SIDE, SIDE)


def as_logits(logits: Tensor, temperature: float) -> Tensor:
    """What a softmax at this temperature turns into the codes of lightly's Sinkhorn-Knopp."""
    codes: Tensor = sinkhorn(logits, epsilon=temperature)
    return temperature * codes.log()


def test_terms_and_gradients_equal_lightlys() -> None:
    method = moved(dinov2())
    views, masks = pictures(method.plan, kept=True), hidden(2)
    encoding = method(views, masks=masks)
    ours = method.loss(encoding)
    with torch.no_grad():
        teacher = encoding.teacher @ method.teacher.head.prototypes.T
        codes = as_logits(teacher.flatten(0, 1), 0.07).view_as(teacher)
    student = [view @ method.head.prototypes.T for view in encoding.student]
    theirs = DINOLoss(PROTOTYPES, teacher_temp=0.07).double()(list(codes), student)
    global_views, where = torch.cat(views[:2]), masks.flatten(0, 1)
    patches = tokens(method.backbone, global_views, where, method.mask_token)[:, 1:][where.flatten(1)]
    with torch.no_grad():
        seen = method.teacher.patch_head(tokens(method.teacher.backbone, global_views)[:, 1:][where.flatten(1)])
        aims = as_logits(seen @ method.teacher.patch_head.prototypes.T, 0.07)
    predicted = method.patch_head(patches) @ method.patch_head.prototypes.T
    theirs = theirs + IBOTPatchLoss(PROTOTYPES, teacher_temp=0.07).double()(aims, predicted, where)
    classes = tokens(method.backbone, global_views, where, method.mask_token)[:, 0].chunk(2)
    theirs = theirs + 0.1 * sum(KoLeoLoss()(view) for view in classes)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    for mine, other in zip(
        torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
    ):
        assert (mine - other).norm() <= 1e-6 * other.norm()


def test_heads_are_untied_unless_asked() -> None:
    assert dinov2().patch_head is not dinov2().head
    tied = dinov2(shared_head=True)
    assert tied.patch_head is tied.head
    assert tied.teacher.patch_head is tied.teacher.head


def test_koleo_equals_lightlys_and_is_finite_where_images_are_the_same() -> None:
    features = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    for view, ours in zip(features, koleo(features), strict=True):
        theirs = KoLeoLoss()(view)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
        both = [torch.autograd.grad(x, features, retain_graph=True)[0] for x in (ours, theirs)]
        torch.testing.assert_close(*both, rtol=1e-9, atol=1e-12)
    same = torch.ones(1, 4, 5, requires_grad=True)
    koleo(same).sum().backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_gram_is_the_papers_norm_by_pairs() -> None:
    patches, anchors = torch.randn(2, 2, 3, 6, 5, dtype=torch.float64)
    found = gram(patches, anchors)
    for t in range(2):
        for b in range(3):
            x, a = (y[t, b] / y[t, b].norm(dim=1, keepdim=True) for y in (patches, anchors))
            torch.testing.assert_close(found[t, b], torch.linalg.matrix_norm(x @ x.T - a @ a.T) ** 2 / 36)


@pytest.mark.parametrize("registers", [0, 3])
def test_gram_anchoring_is_a_views_own_cost(registers: int) -> None:
    """It compares patches alone: no class token, no registers."""
    method = moved(dinov2(vit=tiny_vit(reg_tokens=registers), gram_weight=2.0, koleo_weight=0.0))
    views, masks = pictures(method.plan), hidden(4)
    with torch.no_grad():
        own = method.costs(method(views, masks=masks)).own
        method.gram_weight = 0.0
        plain = method.costs(method(views, masks=masks)).own
        found = tokens(method.backbone, torch.cat(views[:4]), masks.flatten(0, 1), method.mask_token)
        assert method.gram_teacher is not None
        fixed = tokens(method.gram_teacher.backbone, torch.cat(views[:4]))
    assert own is not None
    assert plain is not None
    assert found.shape[1] == 1 + registers + SIDE**2
    term = gram(found[:, 1 + registers :][None], fixed[:, 1 + registers :][None]).view(4, 5)
    torch.testing.assert_close(own, plain + 2 * term)


def test_the_gram_teacher_is_the_teacher_of_its_moment() -> None:
    method = dinov2(gram_weight=1.0, gram_from=2, gram_every=1.5)
    assert method.gram_teacher is not None
    gram_teacher, start = method.gram_teacher, deepcopy(method.gram_teacher.state_dict())
    views, copied = pictures(method.plan, kept=True), []
    for step in range(12):  # two in an epoch
        method.progress = Progress(step, 12, 2)
        encoding = method(views)
        assert bool(encoding.anchors.shape[2]) == (step >= 4)
        with torch.no_grad():
            for parameter in method.backbone.parameters():
                parameter.add_(0.01)
        method.after_step(encoding)
        same = [torch.equal(a, b) for a, b in zip(gram_teacher.backbone.parameters(),
                                                  method.teacher.backbone.parameters(), strict=True)]  # fmt: skip
        copied += [step + 1] if all(same) else []
    assert copied == [4, 7, 10]
    fixed = dinov2(gram_weight=1.0)
    assert fixed(views).anchors.shape[2] == SIDE**2
    fixed.after_step(fixed(views))
    assert fixed.gram_teacher is not None
    found = fixed.gram_teacher.state_dict()
    assert found.pop("begun")
    assert not start.pop("begun")
    torch.testing.assert_close(found, start, rtol=0, atol=0)  # that of the start, for good
    assert dinov2().gram_teacher is None


def test_selection_scores_what_training_costs() -> None:
    """All but Sinkhorn's batch: with the kept views as the candidates, the costs are those of the loss."""
    method = moved(dinov2(small(DINOv2.default_plan(16)).without_selection(), gram_weight=0.5))
    views, masks = pictures(method.plan), hidden(4)
    encoding = method(views, masks=masks)
    costs = method.costs(encoding)
    without = method.loss(encoding) - 0.1 * koleo(encoding.features).sum()
    torch.testing.assert_close(costs.total(costs.all_ids()).mean(), without)


def test_scoring_leaves_no_trace_and_brute_force_finds_its_choice() -> None:
    method = moved(dinov2(small(DINOv2.default_plan(16), local=1), tiny_vit(drop_path_rate=0.5), gram_weight=0.5))
    before, candidates, masks = deepcopy(method.state_dict()), pictures(method.plan), hidden(6)
    with untouched(method), torch.no_grad():
        costs, again = (method.costs(method(candidates, masks=masks)) for _ in range(2))
    assert torch.equal(costs.cross, again.cross)  # drop-path is off
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    choices = list(product((0, 1), (2, 3), (4, 5)))
    totals = torch.stack([costs.total(torch.tensor(choice)[:, None].expand(3, 5)) for choice in choices])
    assert torch.equal(hardest_ids(costs, method.plan), torch.tensor(choices)[totals.argmax(0)].T)


def test_targets_used_again_change_neither_loss_nor_gradients() -> None:
    method = moved(dinov2(gram_weight=1.0))
    candidates, masks = pictures(method.plan), hidden(8)
    with untouched(method), torch.no_grad():
        reusable = method.reusable(method(candidates, masks=masks))
        _, of_teacher = method.teacher_costs(candidates, masks)
    assert reusable is not None
    assert of_teacher is not None
    for one, other in zip(reusable.fields, of_teacher.fields, strict=True):
        torch.testing.assert_close(one, other)
    ids = torch.tensor([[0, 1, 1, 0, 1], [2, 3, 2, 2, 3], [5, 4, 6, 4, 5], [7, 6, 7, 5, 6]])
    image = torch.arange(5)
    kept = [torch.stack([candidates[i][b] for i, b in zip(row.tolist(), image.tolist(), strict=True)]) for row in ids]
    gradients = []
    trained = [p for p in method.parameters() if p.requires_grad]
    for targets in (None, reusable.take(ids[:2])):
        loss = method.loss(method(kept, targets=targets, masks=masks[ids, image]))
        gradients.append([loss.detach(), *torch.autograd.grad(loss, trained)])
    for fresh, used_again in zip(*gradients, strict=True):
        torch.testing.assert_close(used_again, fresh, rtol=1e-10, atol=1e-12)


class PlainDINOv2:
    """The student and the teacher of the papers, and what their parts say of an image."""

    def __init__(self, method: DINOv2) -> None:
        self.method = deepcopy(method)

    def teacher(self, view: Tensor) -> tuple[Tensor, Tensor]:
        teacher = self.method.teacher
        found = tokens(teacher.backbone, view)
        return self.logits(teacher.head, found[:, 0]), self.logits(teacher.patch_head, found[:, 1:])

    @staticmethod
    def logits(head: Any, features: Tensor) -> Tensor:
        rows = F.normalize(head.last_layer.parametrizations.weight.original1, dim=1)
        return F.normalize(head.mlp(features), dim=-1) @ rows.T


def sinkhorn_knopp(logits: Tensor, temperature: float) -> Tensor:
    q = (logits / temperature).exp().T
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def test_the_whole_of_training_steps_equals_a_plain_implementation() -> None:
    steps = 6
    plan = small(DINOv2.default_plan(16, mask_ratio=0.4, mask_spread=0.1)).without_selection()
    method = dinov2(plan, teacher_momentum=0.9, warmup_teacher_epochs=3, gram_weight=0.7, gram_from=1, koleo_weight=0.2)
    plain = PlainDINOv2(method)
    own = plain.method
    optimizer = sgd([p for p in own.parameters() if p.requires_grad])
    anchor, some = own.teacher.backbone, 0
    for index, views, masks, loss in steps_of(method, steps):
        assert masks is not None
        some += int(masks[:2].sum())
        epoch = index // PER_EPOCH
        temperature = (0.04, 0.055, 0.07)[min(epoch, 2)]
        with torch.no_grad():
            targets, patch_targets = zip(*[plain.teacher(view) for view in views[:2]], strict=True)
            codes = sinkhorn_knopp(torch.cat(targets), temperature).chunk(2)
            where = masks[:2].flatten(2)
            aims = torch.zeros(2, 6, SIDE**2, PROTOTYPES, dtype=torch.float64)
            if where.any():
                aims[where] = sinkhorn_knopp(torch.stack(patch_targets)[where], temperature)
        total = torch.zeros((), dtype=torch.float64)
        students = []
        for t, view in enumerate(views[:2]):
            found = tokens(own.backbone, view, masks[t], own.mask_token)
            students.append(found[:, 0])
            terms = -(aims[t] * (plain.logits(own.patch_head, found[:, 1:]) / 0.1).log_softmax(-1)).sum(-1)
            total = total + ((terms * where[t]).sum(1) / where[t].sum(1).clamp(min=1)).mean() / 2
            unit = F.normalize(found[:, 0], dim=1)
            nearest = torch.cdist(unit, unit).masked_fill(torch.eye(6, dtype=torch.bool), 9).argmin(1)
            total = total - 0.2 * ((unit - unit[nearest] + 1e-8).norm(dim=1) + 1e-8).log().mean()
            if epoch >= 1:
                with torch.no_grad():
                    fixed = F.normalize(tokens(anchor, view)[:, 1:], dim=-1)
                x = F.normalize(found[:, 1:], dim=-1)
                total = total + 0.7 * (x @ x.mT - fixed @ fixed.mT).square().mean((1, 2)).mean() / 2
        students += [own.backbone(view) for view in views[2:]]
        for t in range(2):
            for v, features in enumerate(students):
                if v != t:
                    log = (plain.logits(own.head, features) / 0.1).log_softmax(-1)
                    total = total - (codes[t] * log).sum(-1).mean() / 6
        assert loss == pytest.approx(total.item(), abs=1e-6), index
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        if epoch < 1:
            for head in (own.head, own.patch_head):
                for parameter in head.last_layer.parameters():
                    parameter.grad = None
        optimizer.step()
        momentum = 1 - 0.1 * (1 + math.cos(math.pi * index / steps)) / 2
        students_of = nn.ModuleList([own.backbone, own.head, own.patch_head])
        with torch.no_grad():
            for old, new in zip(own.teacher.parameters(), students_of.parameters(), strict=True):
                old.copy_(momentum * old + (1 - momentum) * new)
        if index + 1 == PER_EPOCH:
            anchor = deepcopy(own.teacher.backbone)
    assert some > 20
    own.gram_teacher, ours = None, method.state_dict()
    for name, value in own.state_dict().items():  # timm resizes positions in float32, hence no closer
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)
    for name, value in anchor.state_dict().items():
        torch.testing.assert_close(ours[f"gram_teacher.backbone.{name}"], value, rtol=0, atol=1e-6)


def test_backbones_with_registers_train() -> None:
    vit = create_backbone("vit_small_patch14_reg4_dinov2", 28, embed_dim=12, depth=2, num_heads=2)
    plan = DINOv2.default_plan(28, locals=1, local_size=14)
    method = DINOv2(vit, plan, prototypes=8, hidden_dim=16, bottleneck_dim=8)
    views = [torch.rand(3, 3, 28 if slot < 2 else 14, 28 if slot < 2 else 14) for slot in plan.slot_of_kept()]
    masks = torch.zeros(3, 3, 2, 2, dtype=torch.bool)
    masks[:2, :, 0, 0] = True
    encoding = method(views, masks=masks)
    method.loss(encoding).backward()  # type: ignore[no-untyped-call]
    assert encoding.hidden.sum() == 6
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_costs_stay_float32_under_autocast() -> None:
    method = moved(dinov2(gram_weight=1.0)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = method([view.float() for view in pictures(method.plan)], masks=hidden(8))
        inside, loss = method.costs(encoding), method.loss(DINOv2Encoding(*(field[:4] for field in encoding)))
    assert inside.cross.dtype == loss.dtype == torch.float32
    assert torch.equal(inside.cross, method.costs(encoding).cross)


def test_a_collapse_shows() -> None:
    method = moved(dinov2())
    encoding = method(pictures(method.plan, kept=True))
    some = method.statistics(encoding)
    assert 0 < some["teacher_entropy"] < some["teacher_entropy_of_mean"] <= math.log(PROTOTYPES) + 1e-9
    one = method.statistics(encoding._replace(teacher=encoding.teacher[:1, :1].expand_as(encoding.teacher)))
    assert one["teacher_entropy"].item() == pytest.approx(math.log(PROTOTYPES))  # shared equally, image by image
    assert one["feature_std"].item() == pytest.approx(0, abs=1e-6)


def test_default_plan_draws_2_2_16_and_keeps_1_1_8() -> None:
    plan = DINOv2.default_plan(224)
    assert [(slot.draw, slot.keep, slot.size, slot.scale) for slot in plan.slots] == [
        (2, 1, 224, (0.32, 1.0)), (2, 1, 224, (0.32, 1.0)), (16, 8, 96, (0.05, 0.32))
    ]  # fmt: skip
    assert [slot.mask is not None for slot in plan.slots] == [True, True, False]


def test_the_gram_teacher_of_a_run_that_passed_its_step_is_not_the_random_start() -> None:
    method = moved(dinov2(gram_weight=1.0, gram_from=3.0))
    assert method.gram_teacher is not None
    start = [parameter.clone() for parameter in method.gram_teacher.parameters()]
    encoding = method(pictures(method.plan, kept=True), masks=hidden(2))
    method.progress = Progress(step=5, steps=10, steps_per_epoch=1)  # extended, with gram_from before that
    method.after_step(encoding)
    now = list(method.gram_teacher.parameters())
    assert all(map(torch.equal, now, method.teacher.backbone.parameters()))
    assert not all(map(torch.equal, now, start))
    method.progress = method.progress._replace(step=6)
    method.after_step(encoding)
    again = moved(dinov2(gram_weight=1.0, gram_from=3.0))
    again.load_state_dict(method.state_dict())  # resumed: it has begun
    again.progress = method.progress._replace(step=7)
    before = [parameter.clone() for parameter in again.gram_teacher.parameters()]  # type: ignore[union-attr]
    again.after_step(encoding)
    assert all(map(torch.equal, again.gram_teacher.parameters(), before))  # type: ignore[union-attr]


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="do nothing without gram_weight"):
        dinov2(gram_from=2)
    with pytest.raises(InputError, match="warmup_teacher_temperature must be above 0"):
        dinov2(warmup_teacher_temperature=0)
    with pytest.raises(InputError, match=r"method\.iterations must be at least 1, got 0"):
        dinov2(iterations=0)
    with pytest.raises(InputError, match="koleo"):
        dinov2(koleo_weight=-1)
    with pytest.raises(InputError, match="no patch tokens to mask"):
        dinov2(vit=create_backbone("resnet10t", 16))
