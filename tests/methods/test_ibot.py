"""iBOT against lightly's losses, and its masks against a network that is given holes in another way."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss
from lightning_fabric import Fabric
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import Progress
from hardviews.methods.dino import DINO
from hardviews.methods.ibot import IBOT
from hardviews.networks.masked_vit import resample_mask, tokens
from hardviews.selection import policies
from hardviews.selection.guard import untouched
from hardviews.selection.hard_views import HardViews
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.methods.multi_crop import PROTOTYPES, dino, ibot, pictures, small, teach, tiny_vit
from tests.methods.tiny import TinyBackbone


def drawn(plan: ViewPlan, batch: int = 5, seed: int = 0) -> Views:
    return draw(plan, torch.full((batch, 2), 32), stream(seed, "views"))


def kept(method: IBOT, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Views as are kept, with masks; of some images masked, of others not."""
    plan = method.plan
    masks = drawn(plan.without_selection(), seed=seed).mask
    assert masks is not None
    assert 0 < masks[: plan.kept_targets].any(-1).any(-1).double().mean() < 1
    return pictures(plan, kept=True, seed=seed), masks


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("locals", [0, 2])
def test_loss_and_gradients_equal_lightlys(shared: bool, locals: int) -> None:
    """Its patch loss is given what hides in each image, its view loss the same outputs; centres as ours."""
    plan = IBOT.default_plan(16, locals=locals)
    method = ibot(small(plan) if locals else replace(plan, multiple=4), shared_head=shared).double()
    teach(method)
    views, masks = kept(method)
    method.progress = Progress(40, 100, 1)
    encoding = method(views, masks=masks)
    ours = method.loss(encoding)

    view_loss = DINOLoss(PROTOTYPES).double()
    view_loss.center.data = method.assignment.centre[None, None].clone()
    teacher = [view @ method.teacher.head.prototypes.T for view in encoding.teacher]
    theirs = view_loss(teacher, [view @ method.head.prototypes.T for view in encoding.student], epoch=0)
    patch_loss = IBOTPatchLoss(PROTOTYPES, teacher_temp=0.07)
    prefix = method.backbone.num_prefix_tokens
    for t in range(2):
        patch_loss.center.center = method.patch_assignment.centre[None].clone()
        flat = masks[t].flatten(1)
        seen = tokens(method.teacher.backbone, views[t])[:, prefix:]
        unseen = tokens(method.backbone, views[t], masks[t], method.mask_token)[:, prefix:]
        # of the masked tokens alone, image by image
        target = method.teacher.patch_head(seen[flat]) @ method.teacher.patch_head.prototypes.T
        output = method.patch_head(unseen[flat]) @ method.patch_head.prototypes.T
        theirs = theirs + patch_loss(target, output, masks[t]) / 2
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    trained = [p for p in method.parameters() if p.requires_grad]
    for mine, other in zip(
        torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
    ):
        assert (mine - other).norm() <= 1e-6 * other.norm()


def test_the_whole_of_training_steps_equals_a_plain_implementation() -> None:
    """No selection: lightly's losses, AdamW and its schedules, both centres and the teacher, written out."""
    steps = 3
    method = ibot(replace(IBOT.default_plan(16), multiple=4).without_selection(), teacher_momentum=0.9).double()
    plain = deepcopy(method)
    for module in [*method.modules()]:  # float64 from the first layer on
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    step = Step(
        Fabric(accelerator="cpu", devices=1), method,
        create_optimizer("adamw", parameter_groups(method, 0.04, decay_bias_and_norm=False), 0.0),
        Rates(0.001, 0.0, steps, 0, 0.04, 0.4), policies.named("hardest"), 3, steps=steps, steps_per_epoch=1,
    )  # fmt: skip

    networks = [plain.backbone, plain.head]
    trained = [p for p in plain.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    view_loss, patch_loss = DINOLoss(PROTOTYPES).double(), IBOTPatchLoss(PROTOTYPES)
    centre = torch.zeros(PROTOTYPES, dtype=torch.float64)  # of patches: lightly's is over the masked ones alone
    prefix = plain.backbone.num_prefix_tokens

    def logits(network: Any, seen: Tensor) -> Tensor:
        out: Tensor = network.head(seen) @ network.head.prototypes.T
        return out

    for index in range(steps):
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(0, 256, (6, 8, 8, 3), generator=generator, dtype=torch.uint8)
        images = ImageBatch.pack(list(blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)))
        step.watch.start()
        loss = step(images, index).loss.item()

        views = draw(method.plan, images.size, stream(3, "views", index))
        assert views.mask is not None
        pixels = [view.double() for view in render(images, views, method.plan)]
        with torch.no_grad():
            seen = [tokens(plain.teacher.backbone, view) for view in pixels]
            targets = [logits(plain.teacher, found) for found in seen]
        hidden = zip(pixels, views.mask, strict=True)
        outputs = [logits(plain, tokens(plain.backbone, view, mask, plain.mask_token)) for view, mask in hidden]
        expected = view_loss([t[:, 0] for t in targets], [s[:, 0] for s in outputs], epoch=index)
        patch_loss.teacher_temp = 0.04 + (0.07 - 0.04) * index / 29  # a value an epoch, of which each has one step here
        for target, output, mask in zip(targets, outputs, views.mask, strict=True):
            patch_loss.center.center = centre[None].clone()
            flat = mask.flatten(1)
            terms = patch_loss(target[:, prefix:][flat], output[:, prefix:][flat], mask)
            expected = expected + terms / 2
        assert loss == pytest.approx(expected.item(), rel=1e-6)

        done = (1 + math.cos(math.pi * index / steps)) / 2
        for group, decay in zip(optimizer.param_groups, (0.4 + (0.04 - 0.4) * done, 0.0), strict=True):
            group["lr"], group["weight_decay"] = 0.001 * done, decay
        optimizer.zero_grad()
        expected.backward()
        if index < 1:
            for parameter in plain.head.last_layer.parameters():
                parameter.grad = None
        optimizer.step()
        centre = 0.9 * centre + 0.1 * torch.stack(targets)[:, :, prefix:].mean((0, 1, 2))
        momentum = 1 - 0.1 * done
        teachers = [*plain.teacher.backbone.parameters(), *plain.teacher.head.parameters()]
        with torch.no_grad():
            for old, new in zip(teachers, [p for n in networks for p in n.parameters()], strict=True):
                old.copy_(momentum * old + (1 - momentum) * new)
    for name in ("backbone", "head", "teacher"):  # lightly's temperature is a float32
        theirs = plain.get_submodule(name).state_dict()
        torch.testing.assert_close(method.get_submodule(name).state_dict(), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(method.mask_token, plain.mask_token, rtol=0, atol=1e-5)
    torch.testing.assert_close(method.patch_assignment.centre, centre, rtol=0, atol=1e-6)
    torch.testing.assert_close(method.assignment.centre, view_loss.center.flatten(), rtol=0, atol=1e-6)


def test_centre_of_patches_is_over_all_of_them() -> None:
    method = ibot().double()
    teach(method)
    views, masks = kept(method)
    before = method.patch_assignment.centre.clone()
    encoding = method(views, masks=masks)
    patches = [tokens(method.teacher.backbone, view)[:, method.backbone.num_prefix_tokens :] for view in views[:2]]
    logits = torch.stack([method.teacher.head(p) @ method.teacher.head.prototypes.T for p in patches])
    method.after_step(encoding)
    expected = 0.9 * before + 0.1 * logits.mean((0, 1, 2))
    torch.testing.assert_close(method.patch_assignment.centre, expected)


def test_hidden_patches_have_no_influence_and_others_have() -> None:
    method = ibot().double()
    image, mask = torch.rand(1, 3, 16, 16, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    plain = tokens(method.backbone, image, mask, method.mask_token)
    other = image.clone()
    other[:, :, 4:8, 8:12] = 0
    torch.testing.assert_close(tokens(method.backbone, other, mask, method.mask_token), plain)
    assert not torch.allclose(tokens(method.backbone, other), tokens(method.backbone, image))
    hooks = vars(method.backbone.get_submodule("patch_embed"))["_forward_hooks"]
    assert not hooks  # nothing stays behind


def test_costs_of_candidates_are_those_of_each_choice() -> None:
    """Costs are computed once for all candidates; a choice's total is the loss of its views alone, masks and all."""
    method = ibot().double()
    teach(method)
    candidates, masks = pictures(method.plan, batch=3), drawn(method.plan, 3).mask
    assert masks is not None
    with torch.no_grad():
        costs = method.costs(method(candidates, masks=masks))
        assert costs.own is not None
        assert (costs.own > 0).any()
        for ids in ([0, 2, 4, 5], [1, 2, 6, 7], [0, 3, 4, 7]):
            loss = method.loss(method([candidates[i] for i in ids], masks=masks[ids]))
            torch.testing.assert_close(costs.total(torch.tensor(ids)[:, None].expand(-1, 3)).mean(), loss)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ibot().double()
    with torch.no_grad():
        encoding = method(pictures(method.plan), masks=drawn(method.plan).mask)
        whole = method.costs(encoding)
        monkeypatch.setattr("hardviews.networks.assignment.LOGITS", {"cpu": 1})
        parts = method.costs(encoding)
    assert whole.own is not None
    assert parts.own is not None
    torch.testing.assert_close(parts.own, whole.own)
    torch.testing.assert_close(parts.cross, whole.cross)


def test_targets_used_again_change_neither_loss_nor_gradients() -> None:
    method = ibot().double()
    teach(method)
    candidates, views = pictures(method.plan), drawn(method.plan)

    def score(pixels: list[Tensor]) -> object:
        encoding = method(pixels, masks=views.mask)
        return method.costs(encoding), method.reusable(encoding)

    choice = HardViews(score, method.plan, guard=method).choose(candidates)  # type: ignore[arg-type]
    image = torch.arange(5)
    rows = [torch.stack([candidates[i][b] for i, b in zip(row.tolist(), image, strict=True)]) for row in choice.ids]
    masks = views.take(choice.ids).mask
    assert masks is not None
    assert views.mask is not None
    for k, row in enumerate(choice.ids):  # gathered with their views
        assert torch.equal(masks[k], views.mask[row, image])
    trained, found = [p for p in method.parameters() if p.requires_grad], []
    for targets in (None, choice.targets):
        loss = method.loss(method(rows, targets=targets, masks=masks))
        found.append([loss.detach(), *torch.autograd.grad(loss, trained)])
    for fresh, used_again in zip(*found, strict=True):
        torch.testing.assert_close(used_again, fresh, rtol=1e-10, atol=1e-12)
    assert choice.kept is not None
    torch.testing.assert_close(found[0][0], choice.kept.mean())


def test_scoring_leaves_no_trace() -> None:
    method = ibot().double()
    before = deepcopy(method.state_dict())
    with untouched(method):
        method.costs(method(pictures(method.plan), masks=drawn(method.plan).mask))
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)


def test_small_views_are_scored_with_their_masks() -> None:
    method = ibot().double()
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :2] = True
    assert resample_mask(mask, (2, 2)).tolist() == [[[True, False], [False, False]]]
    masks = drawn(method.plan).mask
    with torch.no_grad():
        shrunk = [torch.nn.functional.avg_pool2d(view, 2) for view in pictures(method.plan)]
        costs = method.costs(method(shrunk, masks=masks))
    assert costs.own is not None
    assert costs.own.isfinite().all()


def test_shared_heads_stay_shared_and_the_teacher_follows() -> None:
    for shared in (True, False):
        method = ibot(shared_head=shared, teacher_momentum=0.5)
        assert (method.head is method.patch_head) == shared
        assert (method.teacher.head is method.teacher.patch_head) == shared
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(float(parameter.requires_grad))
        views, masks = kept(method)
        method.after_step(method([view.float() for view in views], masks=masks))
        for own, student in zip(method.teacher.head.mlp.parameters(), method.head.mlp.parameters(), strict=True):
            torch.testing.assert_close(own, student - 0.5)


def test_other_vits_of_timm_can_be_masked() -> None:
    eva = timm.create_model(
        "eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True
    )
    method = IBOT(eva, replace(IBOT.default_plan(28), multiple=14), 16, 16, 8)
    mask = torch.tensor([[[True, False], [False, False]]] * 2)
    loss = method.loss(method([torch.rand(2, 3, 28, 28)] * 2, masks=torch.stack([mask, mask])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert method.mask_token.grad is not None
    assert method.mask_token.grad.abs().sum() > 0


@pytest.mark.parametrize("ratio", [0.0, 0.03])
def test_masks_that_hide_nothing_cost_nothing(ratio: float) -> None:
    method = ibot(replace(IBOT.default_plan(16, mask_ratio=ratio, mask_spread=ratio), multiple=4)).double()
    for masks in (drawn(method.plan).mask, None):
        own = method.costs(method(pictures(method.plan), masks=masks)).own
        assert own is not None
        assert own.eq(0).all()


def test_a_teacher_with_bn_encodes_again() -> None:
    method = ibot().double()
    encoding = method(pictures(method.plan))
    assert method.reusable(encoding) is not None
    method.teacher.add_module("norm", nn.BatchNorm1d(3))
    assert method.reusable(encoding) is None
    method.eval()
    assert method.reusable(encoding) is not None


def test_a_step_on_any_device_is_that_of_the_cpu(device: str) -> None:
    for create, masked in ((dino, False), (ibot, True)):
        found = []
        for where in ("cpu", device):
            method = create(tiny_vit).double().to(where) if create is dino else create().double().to(where)
            masks = drawn(method.plan.without_selection()).mask if masked else None
            views = [view.to(where) for view in pictures(method.plan, kept=True)]
            encoding = method(views, masks=None if masks is None else masks.to(where))
            method.loss(encoding).backward()  # type: ignore[no-untyped-call]
            method.after_backward()
            statistics = method.statistics(encoding)
            method.after_step(type(encoding)(*(field.detach() for field in encoding)))
            tensors = [*method.state_dict().values(), *statistics.values()]
            found.append([tensor.detach().cpu() for tensor in tensors])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_default_plan_masks_targets_alone() -> None:
    plan = IBOT.default_plan(224)
    assert [(slot.draw, slot.keep) for slot in plan.slots] == [(2, 1), (2, 1)]
    plan = IBOT.default_plan(224, locals=10, masks="published")
    assert [slot.mask.per_view if slot.mask else None for slot in plan.slots] == [True, True, None]
    assert plan.slots[2].draw == 20


def test_a_network_without_patches_is_refused() -> None:
    with pytest.raises(InputError, match="no patch tokens to mask"):
        IBOT(TinyBackbone(), IBOT.default_plan(16))
    dropping = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, patch_drop_rate=0.25)
    with pytest.raises(InputError, match="patch_drop_rate"):
        IBOT(dropping, IBOT.default_plan(16))
    with pytest.raises(InputError, match="no slot of this plan has a mask"):
        IBOT(tiny_vit(), DINO.default_plan(16))
    with pytest.raises(InputError, match="student_temperature"):
        IBOT(tiny_vit(), IBOT.default_plan(16), student_temperature=0)
