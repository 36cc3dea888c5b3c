"""Candidates that pass a part of the backbone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning_fabric import Fabric
from sklearn.linear_model import Ridge as Reference
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.byol import BYOL
from hardviews.methods.simsiam import SimSiam
from hardviews.networks.backbones import compile_backbones, create_backbone
from hardviews.selection import policies
from hardviews.selection.costs import Costs
from hardviews.selection.guard import untouched
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.scoring import early_exit
from hardviews.training.scoring.early_exit import FORGETTING, RIDGE, EarlyExit, Part, Ridge, moments_of, pooled
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, ibot, tiny_vit
from tests.methods.tiny import TinyBackbone
from tests.runs.cut_off import cut_off_after
from tests.runs.test_pretrain import SIMSIAM, assert_equal, pretrain, rows, state

FABRIC = Fabric(accelerator="cpu", devices=1)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_exit, "STEPS", 2)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet18", 32, stem="cifar", channels=[8, 8, 16, 16], layers=[1, 1, 1, 1])


def simsiam(backbone: nn.Module | None = None) -> SimSiam:
    backbone = backbone or resnet()
    torch.manual_seed(0)
    return SimSiam(backbone, SimSiam.default_plan(32), dim=16, predictor_dim=8)


def created(name: str) -> Any:
    if name == "dino":
        return dino(tiny_vit)
    if name == "byol":
        backbone = resnet()
        torch.manual_seed(0)
        return BYOL(backbone, BYOL.default_plan(32), dim=8, hidden_dim=16)
    return simsiam()


def images(number: int = 0, batch: int = 8) -> ImageBatch:
    blocks = torch.randint(0, 256, (batch, 4, 4, 3), generator=stream(0, "test", number), dtype=torch.uint8)
    return ImageBatch.pack(list(blocks.repeat_interleave(9, 1).repeat_interleave(9, 2)))


def step_of(method: Any, **scoring: Any) -> Step:
    groups = parameter_groups(method, 0.0, True, method.constant_rate)
    return Step(
        FABRIC, method, create_optimizer("sgd", groups, 0.9), Rates(0.01, 0.0, 20, 0), policies.named("hardest"), 3,
        steps=20, scoring=Scoring(**scoring),
    )  # fmt: skip


def take(step: Step, numbers: range) -> list[float]:
    losses = []
    for number in numbers:
        step.watch.start()
        losses.append(step(images(number), number).loss.item())
    return losses


def costs_of(scorer: Scorer) -> Costs:
    views = draw(scorer.method.plan, images().size, stream(0, "views", 0))
    with untouched(scorer.method):
        found = scorer(scorer.candidates(images(), views), None, 0)
    assert isinstance(found, Costs) or scorer.exit is None  # encodings of a part are not used again
    return found if isinstance(found, Costs) else found[0]


def test_the_map_is_scikit_learns_ridge() -> None:
    """Of rows that weigh as much as forgetting leaves of them, standardised; a constant channel gets nothing."""
    generator = torch.Generator().manual_seed(0)
    ridge, seen = Ridge(), []
    truth = torch.randn(6, 3, generator=generator)
    for _ in range(4):
        x = torch.randn(50, 6, generator=generator) * torch.tensor([1.0, 3, 0.1, 1, 1, 0]) + 2
        y = x @ truth + torch.randn(50, 3, generator=generator)
        ridge.add(moments_of(x, y))
        seen.append((x, y))
    x, y = torch.cat([x for x, _ in seen]).double(), torch.cat([y for _, y in seen]).double()
    weights = torch.cat([torch.full((50,), FORGETTING**age / 50, dtype=torch.float64) for age in (3, 2, 1, 0)])
    weights /= weights.sum()
    mean = weights @ x
    scale = (weights @ (x - mean).square()).sqrt().clamp_min(1e-6)
    reference = Reference(alpha=RIDGE).fit((x - mean) / scale, y, sample_weight=weights)
    weight, bias = ridge.solved()
    expected = torch.tensor(reference.coef_.T / scale.numpy()[:, None])
    torch.testing.assert_close(weight[:5].double(), expected[:5], atol=1e-3, rtol=1e-3)
    assert not weight[5].any()
    torch.testing.assert_close((x[:, :5].float() @ weight[:5] + 2 * weight[5] + bias).double(),
                               torch.tensor(reference.predict((x - mean) / scale)), atol=1e-3, rtol=1e-3)  # fmt: skip


def test_what_is_not_finite_teaches_nothing() -> None:
    ridge, x = Ridge(), torch.randn(20, 3)
    ridge.add(moments_of(x, x))
    before = ridge.solved()
    ridge.add(moments_of(x * torch.inf, x))
    torch.testing.assert_close(ridge.solved(), before)
    empty = Ridge()
    empty.add(moments_of(x * torch.nan, x))
    assert all(found.isfinite().all() for found in empty.solved())


@pytest.mark.parametrize("name", ["simsiam", "byol", "dino"])
def test_depth_1_and_the_first_steps_are_exact(name: str) -> None:
    exact = costs_of(Scorer(FABRIC, created(name), EXACT))
    assert Scorer(FABRIC, created(name), Scoring(depth=1.0)).exit is None
    assert torch.equal(exact.cross, costs_of(Scorer(FABRIC, created(name), Scoring(depth=0.5))).cross)


@pytest.mark.parametrize("name", ["simsiam", "byol", "dino"])
def test_a_map_to_the_own_features_leaves_the_costs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pooled output of the part is what the backbone yields, and the map is the identity."""
    method = created(name)
    scorer = Scorer(FABRIC, method, Scoring(depth=0.5))
    assert scorer.exit is not None
    scorer.exit.steps = 2
    size = method.backbone.num_features
    monkeypatch.setattr(Ridge, "solved", lambda _: (torch.eye(size), torch.zeros(size)))
    monkeypatch.setattr(Part, "__call__", lambda part, pictures: part.backbone(pictures))
    expected = costs_of(Scorer(FABRIC, method, EXACT))
    torch.testing.assert_close(costs_of(scorer).cross, expected.cross, atol=1e-5, rtol=1e-5)
    parts = [method.backbone, *([] if name == "simsiam" else [method.teacher.backbone])]
    assert not any(isinstance(backbone, early_exit.Shallow) for backbone in parts)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_dinos_costs_by_hand(network: Any) -> None:
    """Both backbones are mapped, each by what it has yielded, and the layers behind the exit are not run."""
    method = dino(tiny_vit)
    step = step_of(method, depth=0.5, network=network)
    take(step, range(3))
    assert step.scorer.exit is not None
    maps = [ridge.solved() for ridge in step.scorer.exit.ridges.values()]  # type: ignore[operator]
    assert list(step.scorer.exit.ridges) == ["backbone", "teacher_backbone"]
    assert not torch.allclose(maps[0][0], maps[1][0])

    class ByHand(nn.Module):
        def __init__(self, backbone: nn.Module, weight: Tensor, bias: Tensor) -> None:
            super().__init__()
            self.backbone, self.weight, self.bias = backbone, weight, bias

        def forward(self, pictures: Tensor) -> Tensor:
            vit: Any = self.backbone
            tokens = vit.blocks[0](vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pictures)))))
            return pooled(tokens, vit) @ self.weight + self.bias

    passed: list[int] = []
    method.backbone.blocks[1].register_forward_hook(lambda *_: passed.append(1))  # type: ignore[index,union-attr]
    found = costs_of(step.scorer)
    assert not passed
    other = copy.deepcopy(method)
    other.backbone, other.teacher.backbone = (
        ByHand(net, *solved) for net, solved in zip((other.backbone, other.teacher.backbone), maps, strict=True)
    )
    expected = costs_of(Scorer(FABRIC, other, Scoring(network=network, reuse=False)))
    torch.testing.assert_close(found.cross, expected.cross, atol=1e-5, rtol=1e-5)


def test_it_learns_what_the_rest_of_the_backbone_yields() -> None:
    """From the views that are trained on; with the weights as they are, it explains most of what they yield."""
    method = simsiam()
    scorer = Scorer(FABRIC, method, Scoring(depth=0.75))
    assert scorer.exit is not None
    part = scorer.exit._parts["backbone"]
    for number in range(60):
        views = scorer.candidates(images(number), draw(method.plan, images().size, stream(0, "views", number)))
        with untouched(method), scorer.learning():
            method(views)
        scorer.learn()
    with untouched(method):
        test = scorer.candidates(images(99), draw(method.plan, images().size, stream(0, "views", 99)))[0]
        whole = method.backbone(test)
        weight, bias = scorer.exit.ridges["backbone"].solved()  # type: ignore[operator]
        error = (part(test) @ weight + bias - whole).square().sum() / (whole - whole.mean(0)).square().sum()
    assert error < 0.5


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
                                  "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002"])  # fmt: skip
def test_the_exit_is_where_timm_takes_features(name: str) -> None:
    """The mean over positions, and their deviation, of what timm returns as its intermediate feature map."""
    backbone: Any = timm.create_model(name, num_classes=0).eval()
    method = nn.ModuleDict({"backbone": backbone})
    part = EarlyExit(method, 0.5)._parts["backbone"]
    pictures = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        feature = backbone.forward_intermediates(pictures, indices=[part.index], intermediates_only=True)[0]
        found = part(pictures)
    if name.startswith("vit"):
        tokens = feature.flatten(2).transpose(1, 2)
        expected = nn.functional.layer_norm(tokens, tokens.shape[-1:]).mean(1)
        torch.testing.assert_close(found[:, tokens.shape[-1] :], expected, atol=1e-5, rtol=1e-5)
    else:
        channels = feature.shape[1]
        quarters = found[:, : 4 * channels].view(1, channels, 4)
        torch.testing.assert_close(quarters.mean(2), feature.mean((2, 3)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, 4 * channels :], feature.std((2, 3), correction=0), atol=1e-4, rtol=1e-4)


def test_steps_go_on_from_their_state_bit_for_bit() -> None:
    whole = step_of(simsiam(), depth=0.5)
    expected = take(whole, range(8))
    first, second = step_of(simsiam(), depth=0.5), step_of(simsiam(), depth=0.5)
    take(first, range(4))
    second.method.load_state_dict(first.method.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.learners["exit"].load_state_dict(copy.deepcopy(first.learners["exit"].state_dict()))
    assert take(second, range(4, 8)) == expected[4:]
    assert_equal(dict(second.learners["exit"].state_dict()), dict(whole.learners["exit"].state_dict()))


@pytest.mark.parametrize(
    ("options", "learner"), [("--score-depth 0.5", "exit"), ("--policy learnable(0.9)", "average")]
)
def test_a_run_goes_on_bit_for_bit(
    options: str, learner: str, tmp_path: Path
) -> None:  # fmt: skip
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --checkpoint-steps 2 {options} --backbone.drop_path_rate 0.3"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert pretrain(f"{line} --out {whole}") == 0
    with cut_off_after(6):
        pretrain(f"{line} --out {cut}")
    assert pretrain(f"{line} --out {cut}") == 0
    assert_equal(state(whole), state(cut))
    assert state(whole)[learner]["_extra_state"] == 8
    assert rows(whole) == rows(cut)


def test_where_nothing_is_chosen_depth_changes_nothing(tmp_path: Path) -> None:
    runs = [tmp_path / "plain", tmp_path / "early"]
    for run, more in zip(runs, ("", "--score-depth 0.5"), strict=True):
        assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 1 --views 2 {more} --out {run}") == 0
    assert_equal(*(state(run)["method"] for run in runs))
    assert rows(runs[0]) == rows(runs[1])


def test_scoring_leaves_no_trace() -> None:
    step = step_of(simsiam(), depth=0.5)
    take(step, range(3))
    before = copy.deepcopy(step.method.state_dict())
    learned = copy.deepcopy(step.learners["exit"].state_dict())
    names = [name for name, _ in step.method.named_modules()]
    costs_of(step.scorer)
    assert_equal(dict(step.method.state_dict()), dict(before))
    assert_equal(dict(step.learners["exit"].state_dict()), dict(learned))
    assert [name for name, _ in step.method.named_modules()] == names


@pytest.mark.parametrize("name", ["simsiam", "dino"])
def test_compiled_backbones_teach_and_exit_alike(name: str) -> None:
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        method = created(name)
        if compiled:
            compile_backbones(method, backend="eager")
        step = step_of(method, depth=0.5)
        found.append((take(step, range(6)), dict(step.learners["exit"].state_dict())))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    for ours, theirs in zip(found[0][1].values(), found[1][1].values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "depth", "wanted"),
    [
        (lambda: simsiam(TinyBackbone()), 0.5, "timm can't stop within TinyBackbone"),
        (ibot, 0.5, "IBOT compares patches"),
        (simsiam, 0.9, "leaves out none of the parts of ResNet; give at most 0.8"),
        (simsiam, 0.0, "score-depth: 0.0 must be above 0"),
        (simsiam, 1.5, "score-depth: 1.5 must be above 0 and at most 1"),
    ],
)
def test_what_it_can_not_do(method: Any, depth: float, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        Scorer(FABRIC, method(), Scoring(depth=depth))
