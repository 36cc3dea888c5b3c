"""DINO against lightly's loss, against one training step written out plainly, and what must not change it."""

import math
from copy import deepcopy
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.methods.base import Progress
from hardviews.methods.dino import DINO, DINOEncoding
from hardviews.networks.assignment import Assignment
from hardviews.networks.backbones import create_backbone
from hardviews.networks.heads import PrototypeHead
from hardviews.selection import policies
from hardviews.selection.guard import untouched
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.methods.multi_crop import PROTOTYPES, dino, pictures, small, teach, tiny_vit


def logits(method: DINO, encoding: DINOEncoding) -> tuple[list[Tensor], list[Tensor]]:
    teacher = [view @ method.teacher.head.prototypes.T for view in encoding.teacher]
    return teacher, [view @ method.head.prototypes.T for view in encoding.student]


def test_loss_gradients_and_centre_equal_lightlys_over_steps() -> None:
    method = dino(teacher_temperature=0.07, warmup_teacher_epochs=3).double()
    teach(method)
    lightly = DINOLoss(PROTOTYPES, warmup_teacher_temp_epochs=3, teacher_temp=0.07).double()
    lightly.center.data = method.assignment.centre[None, None].clone()
    for step in range(5):
        method.progress = Progress(step, 5, 1)
        encoding = method(pictures(method.plan, kept=True, seed=step))
        ours, theirs = method.loss(encoding), lightly(*logits(method, encoding), epoch=step)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        trained = [p for p in method.parameters() if p.requires_grad]
        for mine, other in zip(
            torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
        ):
            assert (mine - other).norm() <= 1e-6 * other.norm()
        method.assignment.move_centre(encoding.teacher, method.teacher.head)
        torch.testing.assert_close(method.assignment.centre, lightly.center.flatten(), rtol=1e-6, atol=1e-12)


def test_all_pairs_at_once_equal_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where logits are made for one image at a time."""
    method = dino().double()
    teach(method)
    with torch.no_grad():
        encoding = method(pictures(method.plan))
        whole = method.costs(encoding).cross
        monkeypatch.setattr("hardviews.networks.assignment.LOGITS", {"cpu": 1})
        torch.testing.assert_close(method.costs(encoding).cross, whole)
        teacher, student = logits(method, encoding)
    for t, target in enumerate(teacher):
        p = ((target - method.assignment.centre) / 0.04).softmax(-1)
        for v, view in enumerate(student):
            torch.testing.assert_close(whole[t, v], -(p * (view / 0.1).log_softmax(-1)).sum(-1))


def test_costs_stay_float32_under_autocast() -> None:
    method = dino()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = method([view.float() for view in pictures(method.plan)])
        inside = method.costs(encoding).cross
    assert inside.dtype == torch.float32
    assert torch.equal(inside, method.costs(encoding).cross)


class PlainDINO:
    """A training step of DINO as the paper's algorithm 1 and appendix C have it, and nothing else."""

    def __init__(self, method: DINO, steps: int, steps_per_epoch: int) -> None:
        self.student = nn.ModuleList([deepcopy(method.backbone), deepcopy(method.head)])
        self.teacher = nn.ModuleList([deepcopy(method.backbone), deepcopy(method.head)])
        for module in self.teacher.modules():  # no dropout, no drop-path, but BN as in training
            module.training = isinstance(module, nn.BatchNorm2d)
        named = [(n, p) for n, p in self.student.named_parameters() if p.requires_grad]
        self.decayed = [p for _, p in named if p.ndim > 1]
        self.plain = [p for _, p in named if p.ndim == 1]
        self.last = [p for n, p in named if "last_layer" in n]
        groups: list[dict[str, Any]] = [{"params": self.decayed}, {"params": self.plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups)
        self.centre = torch.zeros(PROTOTYPES, dtype=torch.float64)
        self.steps, self.steps_per_epoch = steps, steps_per_epoch

    @staticmethod
    def network(of: nn.ModuleList, view: Tensor) -> Tensor:
        backbone, head = cast(tuple[nn.Module, PrototypeHead], tuple(of))
        direction = F.normalize(dict(head.last_layer.named_parameters())["parametrizations.weight.original1"], dim=1)
        return F.normalize(head.mlp(backbone(view)), dim=-1) @ direction.T

    def step(self, views: list[Tensor], index: int) -> float:
        def cosine(start: float, end: float) -> float:
            return end + (start - end) * (1 + math.cos(math.pi * index / self.steps)) / 2

        self.optimizer.param_groups[0]["weight_decay"] = cosine(0.04, 0.4)
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(0.01, 1e-6)
        with torch.no_grad():
            targets = [self.network(self.teacher, view) for view in views[:2]]
        outputs = [self.network(self.student, view) for view in views]
        loss, terms = torch.zeros((), dtype=torch.float64), 0
        for t, target in enumerate(targets):
            q = ((target - self.centre) / 0.04).softmax(-1)
            for v, output in enumerate(outputs):
                if v != t:
                    loss, terms = loss - (q * (output / 0.1).log_softmax(-1)).sum(-1).mean(), terms + 1
        loss = loss / terms
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in [*self.decayed, *self.plain]:
            assert parameter.grad is not None
            norm = parameter.grad.norm()
            if norm > 0.05:
                parameter.grad *= 0.05 / (norm + 1e-6)
        if index < self.steps_per_epoch:
            for parameter in self.last:
                parameter.grad = None
        self.optimizer.step()
        self.centre = 0.9 * self.centre + 0.1 * torch.cat(targets).mean(0)
        momentum = cosine(0.9, 1.0)
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.copy_(momentum * old + (1 - momentum) * new)
        return loss.item()


def test_the_whole_of_training_steps_equals_a_plain_implementation() -> None:
    steps, per_epoch = 4, 2
    method = dino(tiny_vit, small(DINO.default_plan(16)).without_selection(), teacher_momentum=0.9)
    method.double()
    plain = PlainDINO(method, steps, per_epoch)
    for network in (method.backbone, method.teacher.backbone):  # float64, so that differences are not rounding
        network.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    groups = parameter_groups(method, 0.04, decay_bias_and_norm=False)
    step = Step(
        Fabric(accelerator="cpu", devices=1), method, create_optimizer("adamw", groups, 0.0),
        Rates(0.01, 1e-6, steps, 0, 0.04, 0.4), policies.named("hardest"), 3,
        steps=steps, steps_per_epoch=per_epoch, clip=0.05,
    )  # fmt: skip
    for index in range(steps):
        blocks = torch.randint(0, 256, (6, 8, 8, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        images = ImageBatch.pack(list(blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)))
        step.watch.start()
        loss = step(images, index).loss.item()
        views = render(images, draw(method.plan, images.size, stream(3, "views", index)), method.plan)
        assert loss == pytest.approx(plain.step([view.double() for view in views], index), abs=1e-9)
    pairs = [(method.backbone, plain.student[0]), (method.head, plain.student[1])]
    pairs += [(method.teacher.backbone, plain.teacher[0]), (method.teacher.head, plain.teacher[1])]
    for ours, theirs in pairs:  # timm resizes positions in float32, hence no closer
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-6)
    torch.testing.assert_close(method.assignment.centre, plain.centre, rtol=0, atol=1e-7)


def test_targets_used_again_change_neither_loss_nor_gradients() -> None:
    method = dino(tiny_vit).double()
    teach(method)
    candidates = pictures(method.plan)
    with untouched(method):
        scored = method(candidates)
        reusable = method.reusable(scored)
    assert reusable is not None
    ids = torch.tensor([[0, 1, 1, 0, 1], [2, 3, 2, 2, 3], [5, 4, 6, 4, 5], [7, 6, 7, 5, 6]])
    image = torch.arange(5)
    kept = [torch.stack([candidates[i][b] for i, b in zip(row.tolist(), image.tolist(), strict=True)]) for row in ids]
    gradients = []
    trained = [p for p in method.parameters() if p.requires_grad]
    for targets in (None, reusable.take(ids[:2])):
        loss = method.loss(method(kept, targets=targets))
        gradients.append([loss.detach(), *torch.autograd.grad(loss, trained)])
    for fresh, used_again in zip(*gradients, strict=True):
        torch.testing.assert_close(used_again, fresh, rtol=1e-10, atol=1e-12)


def test_a_teacher_with_bn_encodes_again() -> None:
    method = dino(lambda: create_backbone("resnet10t", 16, channels=[8, 8, 8, 8], stem_width=8))
    assert method.reusable(method([view.float() for view in pictures(method.plan)])) is None
    method.eval()
    assert method.reusable(method([view.float() for view in pictures(method.plan)])) is not None


def test_scoring_leaves_no_trace_and_drop_path_is_off() -> None:
    method = dino(partial(tiny_vit, drop_path_rate=0.5), small(DINO.default_plan(16))).double()
    before = deepcopy(method.state_dict())
    candidates = pictures(method.plan)
    with untouched(method):
        first, second = (method.costs(method(candidates)).cross for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(method(candidates).student, method(candidates).student)  # but in training it is on
    assert torch.equal(method(candidates).teacher, method(candidates).teacher)  # for the student alone


def test_views_of_one_size_go_through_in_one_batch() -> None:
    method, seen = dino(tiny_vit).double(), []
    for backbone in (method.backbone, method.teacher.backbone):
        backbone.register_forward_hook(
            lambda module, inputs, _: seen.append((module is method.backbone, *inputs[0].shape))
        )
    method(pictures(method.plan, kept=True))
    assert seen == [(True, 10, 3, 16, 16), (True, 10, 3, 8, 8), (False, 10, 3, 16, 16)]


def test_last_layer_is_frozen_for_the_first_epoch() -> None:
    method = dino(freeze_last_layer=1).double()
    for step, frozen in ((0, True), (9, True), (10, False)):
        method.progress = Progress(step, 100, 10)
        method.zero_grad()
        method.loss(method(pictures(method.plan, kept=True))).backward()  # type: ignore[no-untyped-call]
        method.after_backward()
        grads = [p.grad for p in method.head.last_layer.parameters() if p.requires_grad]
        assert all((grad is None) == frozen for grad in grads)
        assert all(p.grad is not None for p in method.head.mlp.parameters())


def test_entropies_tell_both_collapses() -> None:
    method = dino().double()
    encoding = method(pictures(method.plan, kept=True))
    some = method.statistics(encoding)
    assert 0 < some["teacher_entropy"] < some["teacher_entropy_of_mean"] < math.log(PROTOTYPES)
    one = method.statistics(encoding._replace(teacher=encoding.teacher[:1, :1].expand_as(encoding.teacher)))
    torch.testing.assert_close(one["teacher_entropy"], one["teacher_entropy_of_mean"])
    method.assignment.end = 1e9
    alike = method.statistics(encoding)["teacher_entropy"].item()
    assert alike == pytest.approx(math.log(PROTOTYPES), abs=1e-6)


@pytest.mark.parametrize("epochs", [0, 1, 2, 30])
def test_temperature_warms_up_as_dinos_schedule(epochs: int) -> None:
    schedule = [*np.linspace(0.04, 0.07, epochs), *[0.07] * (40 - epochs)]
    found = [Assignment(3, 0.9, 0.07, 0.04, epochs).temperature(epoch + 0.5) for epoch in range(40)]
    assert found == pytest.approx(schedule)


def test_default_plan_draws_2_2_16_and_keeps_1_1_8() -> None:
    plan = DINO.default_plan(224)
    assert [(slot.draw, slot.keep, slot.size) for slot in plan.slots] == [(2, 1, 224), (2, 1, 224), (16, 8, 96)]
    assert [slot.photometric.solarize_p for slot in plan.slots] == [0, 0.2, 0]
    assert len(DINO.default_plan(224, locals=0).slots) == 2


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="student_temperature"):
        dino(student_temperature=0)
    with pytest.raises(InputError, match="teacher temperatures"):
        dino(teacher_temperature=0)
    with pytest.raises(InputError, match=r"teacher_momentum is 0 to 1, not 1\.5"):
        dino(teacher_momentum=1.5)
    with pytest.raises(InputError, match="warmup_teacher_epochs -3 must be at least 0"):
        dino(warmup_teacher_epochs=-3)
    with pytest.raises(InputError, match="bottleneck_dim 0: each must be at least 1"):
        dino(bottleneck_dim=0)
    with pytest.raises(InputError, match=r"plan\.locals"):
        DINO.default_plan(32, locals=-1)
    with pytest.raises(InputError, match="3 views were given; the plan draws 8 and keeps 4"):
        dino()([torch.rand(2, 3, 16, 16)] * 3)
