"""Steps that train on smaller views, against steps of a plan whose views are that small."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hardviews.methods.dino import DINO
from hardviews.methods.simclr import SimCLR
from hardviews.methods.simsiam import SimSiam
from hardviews.networks.masked_vit import resample_mask
from hardviews.selection.scoring import Scoring
from hardviews.training import step as steps
from hardviews.training.schedules import FULL_SIZE, ResolutionSchedule
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, ibot, small, tiny_vit
from tests.methods.tiny import TinyBackbone
from tests.training.test_step import STEPS, images, trained

HALF = ResolutionSchedule(0.5, STEPS)  # throughout
NAMES = ["simsiam", "simclr", "dino"]


def halved(plan: ViewPlan) -> ViewPlan:
    return replace(plan, slots=tuple(replace(slot, size=slot.size // 2) for slot in plan.slots))


def created(name: str, plain: bool = False, half: bool = False) -> Any:
    """Without blur, whose width in pixels is a plan's own."""
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"simsiam": SimSiam, "simclr": SimCLR}
    heads = {"simsiam": {"dim": 16, "predictor_dim": 8}, "simclr": {"dim": 16, "hidden_dim": 16}}

    def asked(plan: ViewPlan) -> ViewPlan:
        plan = plan.without_selection() if plain else plan
        return halved(plan) if half else plan

    if name == "dino":
        return dino(tiny_vit, asked(small(DINO.default_plan(16, blur_p=(0, 0, 0)))))
    return kinds[name](TinyBackbone(), asked(kinds[name].default_plan(16, blur_p=0)), **heads[name])


def test_the_schedule() -> None:
    schedule = ResolutionSchedule(0.5, 3)
    assert [schedule.at(step) for step in range(5)] == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert [schedule.grows_at(step) for step in range(5)] == [False, False, False, True, False]
    for never in (FULL_SIZE, ResolutionSchedule(1.0, 3), ResolutionSchedule(0.5, 0)):
        assert not any(never.grows_at(step) for step in range(5))
        assert never.at(3) == 1.0


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(resolution=0.5)], ids=["exact", "scored smaller"])
@pytest.mark.parametrize("name", NAMES)
def test_small_steps_are_those_of_a_plan_of_small_views(name: str, scoring: Scoring) -> None:
    losses, parameters = trained(created(name), resolution=HALF, scoring=scoring)
    others, other = trained(created(name, half=True), scoring=scoring)
    assert losses == others
    assert torch.equal(parameters, other)
    assert losses != trained(created(name), scoring=scoring)[0]


@pytest.mark.parametrize("name", NAMES)
def test_as_many_views_as_are_kept_is_the_plain_method_at_every_size(name: str) -> None:
    """Against renders of the plan of small views, then of the plan itself, that go through the method by hand."""
    method = created(name, plain=True)
    losses, parameters = trained(method, resolution=ResolutionSchedule(0.5, 2))

    def by_hand(images: ImageBatch, views: Any, plan: ViewPlan, resolution: float = 1.0) -> list[Tensor]:
        index = indices[0]
        drawn = draw(plan, images.size, stream(3, "views", index))
        indices[:] = [index + 1]
        return render(images, drawn, halved(plan) if index < 2 else plan)

    indices = [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "render", by_hand)
        others, other = trained(created(name, plain=True))
    assert indices == [STEPS]
    assert losses == others
    assert torch.equal(parameters, other)


def test_sizes_of_scoring_and_training_on_both_sides_of_the_change() -> None:
    seen: list[tuple[bool, int]] = []
    method = created("simsiam")
    method.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.append((torch.is_grad_enabled(), inputs[0].shape[-1]))
    )
    trained(method, resolution=ResolutionSchedule(0.5, 1), scoring=Scoring(resolution=0.5))
    first, others = seen[:6], seen[6:]
    assert first == [(False, 4)] * 4 + [(True, 8)] * 2
    assert others == ([(False, 8)] * 4 + [(True, 16)] * 2) * (STEPS - 1)


@pytest.mark.parametrize("score", [1.0, 0.5])
def test_candidates_of_training_s_size_are_used_again(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the teacher's encodings of the targets, which it has of the candidates alone."""
    rendered: list[float] = []
    encoded: list[int] = []
    scored = Scoring(resolution=score)

    def counted(images: ImageBatch, views: Any, plan: ViewPlan, resolution: float = 1.0) -> list[Tensor]:
        rendered.append(resolution)
        return render(images, views, plan, resolution)

    monkeypatch.setattr(steps, "render", counted)
    method = created("dino")
    method.teacher.backbone.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[-1]))
    trained(method, resolution=ResolutionSchedule(0.5, 2), scoring=scored)
    assert rendered == ([] if score == 1 else [0.5, 0.5, 1.0, 1.0])
    assert encoded == ([8, 8, 16, 16] if score == 1 else [4, 8, 4, 8, 8, 16, 8, 16])


def test_parts_are_of_the_same_size() -> None:
    seen: set[int] = set()
    method = created("dino")
    method.backbone.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[-1]))
    losses, _ = trained(method, resolution=HALF, parts=2)
    assert seen == {8, 4}
    assert losses == pytest.approx(trained(created("dino"), resolution=HALF)[0], abs=1e-4)


def test_positions_and_the_mask_token_learn_from_small_views() -> None:
    """Masks are drawn for the full grid, and hide the patches of the small one that lie nearest."""
    method, before = ibot(), ibot()
    losses, _ = trained(method, resolution=HALF)
    assert all(loss == loss for loss in losses)
    for name in ("backbone.pos_embed", "mask_token"):
        assert (method.state_dict()[name] - before.state_dict()[name]).abs().max() > 1e-5
    plan = method.plan.without_selection()
    method.plan = plan
    views = draw(plan, images(0).size, stream(0, "views", 0))
    pixels = render(images(0), views, plan, 0.5)
    assert views.mask is not None
    grids = torch.stack([resample_mask(mask, (2, 2)) for mask in views.mask])
    assert views.mask.shape[-1] == 4
    assert grids.any()
    assert not grids.all()
    loss = method.loss(method(pixels, masks=views.mask))
    torch.testing.assert_close(loss, method.loss(method(pixels, masks=grids)))
    assert loss != method.loss(method(pixels, masks=torch.zeros_like(grids)))
