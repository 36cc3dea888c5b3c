"""Cheaper scoring against what it stands for."""

import copy
from typing import Any

import pytest
import timm
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.byol import BYOL
from hardviews.methods.simsiam import SimSiam
from hardviews.selection import policies
from hardviews.selection.costs import Costs
from hardviews.selection.guard import untouched
from hardviews.selection.hard_views import HardViews
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.selection.search import first_ids, hardest_ids
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, dinov2, ibot, pictures, teach, tiny_vit
from tests.methods.tiny import TinyBackbone, without_bn


def byol() -> BYOL:
    torch.manual_seed(0)
    method: Any = without_bn(BYOL(TinyBackbone(), BYOL.default_plan(16), dim=8, hidden_dim=16))
    with torch.no_grad():
        for tensor in method.teacher.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
    return method  # type: ignore[no-any-return]


def scorer(method: Any, **settings: Any) -> Scorer:
    return Scorer(Fabric(accelerator="cpu", devices=1), method, Scoring(**settings))


def images(batch: int = 6) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    return ImageBatch.pack(list(torch.randint(0, 256, (batch, 20, 24, 3), generator=generator, dtype=torch.uint8)))


def views_of(method: Any) -> Views:
    return draw(method.plan, images().size, stream(0, "views", 0))


def scored(of: Scorer, seed: int = 0, masked: bool = True) -> tuple[Costs, Any]:
    views = views_of(of.method)
    with untouched(of.method):
        found = of(of.candidates(images(), views), views.mask if masked else None, seed)
    return found if isinstance(found, tuple) else (found, None)


def taught(name: str) -> Any:
    if name == "byol":
        return byol()
    method = dino(tiny_vit) if name == "dino" else ibot() if name == "ibot" else dinov2()
    teach(method)
    return method


def as_its_own_teacher(method: Any) -> Any:
    """The same with the teacher's weights in the student too."""
    other = copy.deepcopy(method)
    for name, network in method.teacher.named_children():
        getattr(other, name).load_state_dict(network.state_dict())
    return other


@pytest.mark.parametrize("name", ["dino", "ibot"])
@pytest.mark.parametrize("chunk", [0, 4])
def test_the_teacher_stands_for_both(name: str, chunk: int) -> None:
    method = taught(name)
    costs, targets = scored(scorer(method, network="teacher", chunk=chunk))
    expected, _ = scored(scorer(as_its_own_teacher(method)), masked=False)  # nothing is hidden from the teacher
    torch.testing.assert_close(costs.cross, expected.cross, atol=1e-5, rtol=0)
    exact, reused = scored(scorer(method))
    assert (costs.cross - exact.cross).abs().max() > 1e-3
    for ours, theirs in zip(targets.fields, reused.fields, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_chunks_are_for_costs_that_one_image_has_alone() -> None:
    """The student's encodings are joined before they cost anything; a teacher's costs are of a chunk."""
    method = taught("dinov2")
    (whole, _), (parts, _) = scored(scorer(method)), scored(scorer(method, chunk=4))
    torch.testing.assert_close(parts.cross, whole.cross, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="the teacher of DINOv2 compares the images of a batch"):
        scorer(method, network="teacher", chunk=4)
    with pytest.raises(InputError, match="score-chunk"):
        Scorer(Fabric(accelerator="cpu", devices=1), method, Scoring(chunk=4), reference="teacher")


def test_byols_teacher_compares_projections() -> None:
    method = byol()
    costs, _ = scored(scorer(method, network="teacher"))
    candidates = scorer(method).candidates(images(), views_of(method))
    z = [nn.functional.normalize(method.teacher.projector(method.teacher.backbone(v)), dim=-1) for v in candidates]
    by_hand = torch.stack([torch.stack([4 - 4 * (t * v).sum(-1) for v in z]) for t in z])
    torch.testing.assert_close(costs.cross, by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dino", "ibot", "byol", "dinov2"])
def test_the_teacher_of_targets_alone(name: str) -> None:
    """Target views as the teacher of all views judges them; the others unscored, unrendered, and taken as drawn."""
    method = taught(name)
    alone, every = scorer(method, network="teacher_targets"), scorer(method, network="teacher")
    rendered = alone.candidates(images(), views_of(method))
    targets = method.plan.targets
    assert [view.numel() > 0 for view in rendered] == [v < targets for v in range(method.plan.draw)]
    (costs, reused), (whole, _) = scored(alone), scored(every)
    torch.testing.assert_close(costs.cross[:, :targets], whole.cross[:, :targets], atol=1e-6, rtol=0)
    assert not costs.cross[:, targets:].any()
    assert reused is not None
    ids = hardest_ids(costs, method.plan)
    kept = method.plan.kept_targets
    assert torch.equal(ids[kept:], first_ids(method.plan, 6, ids.device)[kept:])


def test_what_is_used_again_is_what_training_would_encode() -> None:
    method = taught("dino")
    ways: list[dict[str, Any]] = [{}, {"network": "teacher"}, {"network": "teacher_targets"}]
    for settings in ways:
        _, targets = scored(scorer(method, **settings))
        candidates = scorer(method).candidates(images(), views_of(method))
        torch.testing.assert_close(targets.fields[0], method(candidates).teacher, atol=1e-6, rtol=0)
    ways = [{"reuse": False}, {"resolution": 0.5}, {"token_keep": 0.5}]
    for settings in ways:
        assert scored(scorer(method, **settings))[1] is None


def test_a_part_of_the_patches() -> None:
    method = dino(tiny_vit)
    seen: list[int] = []
    method.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))  # type: ignore[index,union-attr]
    part = scorer(method, token_keep=0.5)
    first, second, other = (scored(part, seed)[0].cross for seed in (1, 1, 2))
    assert set(seen) == {1 + 8, 1 + 2}  # of 16 patches of a global view, and 4 of a local one, and the class token
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert isinstance(method.backbone.patch_drop, nn.Identity)
    assert isinstance(method.teacher.backbone.patch_drop, nn.Identity)
    torch.testing.assert_close(scored(scorer(method, token_keep=1.0))[0].cross, scored(scorer(method))[0].cross)


def test_left_out_patches_leave_no_trace() -> None:
    method = dino(tiny_vit)
    part = scorer(method, token_keep=0.5)
    hard = HardViews(lambda candidates: part(candidates, None, 0), method.plan, guard=method)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hard.choose([view.float() for view in pictures(method.plan)])
    assert torch.equal(torch.rand(3), expected)


def test_choosing_at_every_third_step() -> None:
    torch.manual_seed(0)
    method = SimSiam(TinyBackbone(), SimSiam.default_plan(16), dim=16, predictor_dim=8)
    scored_in: list[int] = []
    optimizer = create_optimizer("sgd", parameter_groups(method, 0.0, True, method.constant_rate), 0.0)
    step = Step(
        Fabric(accelerator="cpu", devices=1), method, optimizer, Rates(1e-3, 0.0, 7, 0), policies.named("hardest"), 3,
        steps=7, scoring=Scoring(every=3),
    )  # fmt: skip
    trained_on: list[Tensor] = []

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            trained_on.append(inputs[0])
        else:
            scored_in.append(now)

    method.backbone.register_forward_pre_hook(watch)
    for now in range(7):
        step.watch.start()
        report = step(images(), now)
        assert ("cost_kept" in report.values) == (now % 3 == 0)
        views = draw(method.plan, images().size, stream(3, "views", now))
        plain = Scorer(step.fabric, method, EXACT).candidates(images(), views)[:2]
        taken = [torch.equal(a, b) for a, b in zip(trained_on[-2:], plain, strict=True)]
        assert all(taken) == (now % 3 != 0)
    assert sorted(set(scored_in)) == [0, 3, 6]


@pytest.mark.parametrize(
    ("method", "settings", "wanted"),
    [
        ("simsiam", {"network": "teacher"}, "no teacher"),
        ("simsiam", {"network": "teacher_targets"}, "no teacher"),
        ("simsiam", {"token_keep": 0.5}, "no patches"),
        ("ibot", {"token_keep": 0.5}, "compares all patches"),
        ("eva", {"token_keep": 0.5}, "no patches"),
        ("simsiam", {"chunk": 2}, "BN"),
        ("simsiam", {"resolution": 0.0}, "score-resolution"),
        ("simsiam", {"token_keep": 1.5}, "score-token-keep"),
        ("simsiam", {"every": 0}, "score-every"),
    ],
)
def test_what_a_method_can_not_do(method: str, settings: dict[str, Any], wanted: str) -> None:
    backbone: nn.Module = TinyBackbone()
    if method == "eva":  # whose layer that leaves out patches is another
        backbone = timm.create_model("eva02_tiny_patch14_224", img_size=28, embed_dim=16, depth=1, num_heads=2)
    made = ibot() if method == "ibot" else SimSiam(backbone, SimSiam.default_plan(16), dim=16, predictor_dim=8)
    with pytest.raises(InputError, match=wanted):
        scorer(made, **settings)


@pytest.mark.parametrize("name", ["byol", "dino", "ibot"])
@pytest.mark.parametrize("chunk", [0, 4])
def test_the_teacher_judges_beside_the_student(name: str, chunk: int) -> None:
    method = taught(name)
    fabric = Fabric(accelerator="cpu", devices=1)
    both, targets = scored(Scorer(fabric, method, Scoring(chunk=chunk), reference="teacher"))
    alone, _ = scored(scorer(method, network="teacher", reuse=False))
    student, reused = scored(scorer(method))
    assert both.reference is not None
    torch.testing.assert_close(both.reference.cross, alone.cross, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.cross, student.cross, atol=1e-5, rtol=1e-5)
    assert (targets is None) == (reused is None)  # encodings of targets are used again as ever
    assert not torch.allclose(both.cross, alone.cross, atol=1e-3)


def test_who_has_no_teacher_to_compare_with() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    plain = SimSiam(TinyBackbone(), SimSiam.default_plan(16), dim=16, predictor_dim=8)
    with pytest.raises(InputError, match="SimSiam has none"):
        Scorer(fabric, plain, EXACT, reference="teacher")
    with pytest.raises(InputError, match="give --score-network student"):
        Scorer(fabric, byol(), Scoring(network="teacher"), reference="teacher")
