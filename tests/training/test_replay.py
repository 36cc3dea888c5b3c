"""Training on what scoring computed against a second forward."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hardviews.errors import InputError
from hardviews.methods.lejepa import LeJEPA
from hardviews.methods.simclr import SimCLR
from hardviews.methods.simsiam import SimSiam
from hardviews.selection import policies
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.scoring.replay import _take, check_replay
from hardviews.training.step import Step
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan
from tests.methods.multi_crop import dino, ibot, small, tiny_vit
from tests.methods.tiny import TinyBackbone

ONCE = Scoring(once=True)
PLAN = ViewPlan((Slot(size=16),))


def simclr(backbone: Any = tiny_vit, plan: ViewPlan | None = None) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(backbone(), plan or SimCLR.default_plan(16), dim=8, hidden_dim=16)  # its projector has BN


def lejepa() -> LeJEPA:
    torch.manual_seed(0)
    return LeJEPA(tiny_vit(), small(LeJEPA.default_plan(16)), dim=8, hidden_dim=16, directions=64)


METHODS: dict[str, Any] = {
    "simclr": simclr,
    "simclr, convolutions": lambda: simclr(TinyBackbone),
    "dino": lambda: dino(tiny_vit),
    "ibot": ibot,
    "lejepa": lejepa,
}


class Trained:
    """Some steps of a method, and what came of each."""

    def __init__(
        self, method: Any, scoring: Scoring, steps: int = 4, precision: Any = "32-true", **options: Any
    ) -> None:
        self.method = method
        self.chosen: list[Tensor] = []
        self.gradients: list[list[Tensor]] = []
        self.losses: list[float] = []
        optimizer = create_optimizer("sgd", parameter_groups(method, 1e-4, True, method.constant_rate), 0.9)
        optimizer.register_step_pre_hook(lambda *_: self.gradients.append([
            torch.zeros(0) if p.grad is None else p.grad.clone() for p in method.parameters()
        ]))  # fmt: skip
        self.step = Step(
            Fabric(accelerator="cpu", devices=1, precision=precision), method, optimizer, Rates(0.01, 0.0, 8, 0),
            policies.named("hardest"), 3, steps=8, scoring=scoring,
            observe=lambda *seen: self.chosen.append(seen[3].ids), **options,
        )  # fmt: skip
        self.take(range(steps))

    def take(self, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            blocks = torch.randint(0, 256, (6, 4, 3, 3), generator=generator, dtype=torch.uint8)
            pictures = ImageBatch.pack(list(blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)))
            self.step.watch.start()
            self.losses.append(self.step(pictures, number).loss.item())

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.method.state_dict().items()}


@pytest.mark.parametrize(("name", "parts"), [*((name, 1) for name in METHODS), ("dino", 2), ("ibot", 2)])
def test_choices_and_gradients_are_those_of_a_second_forward(name: str, parts: int) -> None:
    twice, once = (Trained(METHODS[name](), scoring, parts=parts) for scoring in (EXACT, ONCE))
    assert torch.equal(torch.stack(once.chosen), torch.stack(twice.chosen))
    assert once.losses == pytest.approx(twice.losses, abs=1e-5)
    for found, expected in zip(once.gradients, twice.gradients, strict=True):
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    for name, value in once.state().items():
        torch.testing.assert_close(value, twice.state()[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["simclr", "dino", "ibot"])
def test_the_same_in_bf16(name: str) -> None:
    """One step: rounding of bf16 lets longer ones drift apart."""
    twice, once = (Trained(METHODS[name](), scoring, 1, "bf16-mixed") for scoring in (EXACT, ONCE))
    assert torch.equal(once.chosen[0], twice.chosen[0])
    assert once.losses == pytest.approx(twice.losses, rel=1e-3)
    for x, y in zip(once.gradients[0], twice.gradients[0], strict=True):
        torch.testing.assert_close(x, y, atol=5e-3, rtol=2e-2)


def test_the_backbone_encodes_kept_views_once() -> None:
    """By count of operations: the step saves those of K views' forward, but for the embedding of positions."""

    def operations(trained: Trained) -> int:
        with FlopCounterMode(display=False) as counter:
            trained.take(range(1))
        return int(counter.get_total_flops())

    twice, once = (Trained(simclr(), scoring, steps=0) for scoring in (EXACT, ONCE))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        once.method.backbone(torch.zeros(2 * 6, 3, 16, 16))
    assert operations(twice) - operations(once) == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", METHODS)
def test_as_many_views_as_are_kept_is_the_plain_method_bit_for_bit(name: str) -> None:
    def state(scoring: Scoring) -> dict[str, Tensor]:
        method = METHODS[name]()
        method.plan = method.plan.without_selection()
        return Trained(method, scoring).state()

    plain = state(EXACT)
    assert all(torch.equal(value, plain[name]) for name, value in state(ONCE).items())


def test_resumes_bit_for_bit() -> None:
    whole, first = Trained(dino(tiny_vit), ONCE), Trained(dino(tiny_vit), ONCE, steps=2)
    resumed = Trained(dino(tiny_vit), ONCE, steps=0)
    resumed.method.load_state_dict(first.state())
    resumed.step.optimizer.load_state_dict(first.step.optimizer.state_dict())
    resumed.take(range(2, 4))
    assert resumed.losses == whole.losses[2:]
    assert all(torch.equal(value, whole.state()[name]) for name, value in resumed.state().items())


def test_nothing_is_held_after_a_step() -> None:
    trained = Trained(dino(tiny_vit), ONCE)
    assert not trained.step.scorer.replay.calls
    assert "forward_features" not in vars(trained.method.backbone)


@pytest.mark.parametrize(
    "backbone",
    [
        tiny_vit,
        TinyBackbone,
        lambda: tiny_vit(init_values=1e-5, qk_norm=True, class_token=False, global_pool="avg", reg_tokens=2),
        lambda: timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1)),
        lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=32, window_size=4,
                                  depths=(1, 2), num_heads=(2, 4), embed_dim=16, drop_path_rate=0.0),
        lambda: timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=28, depth=2, embed_dim=24,
                                  num_heads=2),
    ],
    ids=["vit", "convolutions", "vit with everything", "convnext", "swin", "eva02"],
)  # fmt: skip
def test_backbones_of_many_kinds_are_replayed(backbone: Any) -> None:
    made = backbone()
    size = {"SwinTransformer": 32, "ConvNeXt": 32, "Eva": 28}.get(type(made).__name__, 16)
    check_replay(made, replace(PLAN, slots=(Slot(size=size),)))


class Odd(TinyBackbone):
    """A backbone that can't be replayed."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.linear = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        x = super().forward(images)
        if self.fault == "mixes":
            x = self.linear(x - x.mean(0))
        elif self.fault == "in place":
            x = self.linear(x).add_(1)
        elif self.fault == "images inside":  # a multiple of the images, but not image by image
            x = self.linear(x.view(-1, 2, 4).transpose(0, 1).reshape(2 * len(x), 4).repeat(1, 2))
            x = x.view(2, -1, 8).sum(0)
        elif self.fault == "training" and self.training:
            x = self.linear(x)
        return x


@pytest.mark.parametrize("fault", ["mixes", "in place", "images inside", "training"])
@pytest.mark.fault("a backbone that can't be replayed", "refused before the run starts")
def test_a_backbone_that_cannot_be_replayed_is_refused(fault: str) -> None:
    with pytest.raises(InputError, match="score-once: "):
        check_replay(Odd(fault), PLAN)


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        (lambda: tiny_vit(drop_path_rate=0.1), "drops at random"),
        (lambda: tiny_vit(attn_drop_rate=0.1), "drops at random"),
        (lambda: tiny_vit(patch_drop_rate=0.1), "drops at random"),
        (lambda: timm.create_model("resnet10t", num_classes=0), "BN"),
    ],
)
def test_randomness_and_bn_are_refused(backbone: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_replay(backbone(), PLAN)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 1, 3), (1, 0, 2, 3), (3, 2, 1, 0)])
def test_rows_are_copied_in_their_memory_order(order: tuple[int, ...]) -> None:
    """Rows of 5 images, 2 each, in any layout."""
    back = [order.index(dim) for dim in range(4)]
    x = torch.randn([(10, 3, 4, 1)[dim] for dim in order]).permute(back)
    taken = _take(x, 5, torch.tensor([4, 1, 1]))
    assert torch.equal(taken, torch.cat([x[8:10], x[2:4], x[2:4]]))
    if order[0] == 0:
        assert taken.permute(order).is_contiguous()


def test_views_encoded_one_by_one_are_refused() -> None:
    with pytest.raises(InputError, match="one by one"):
        Trained(SimSiam(TinyBackbone(), SimSiam.default_plan(16), dim=16, predictor_dim=8), ONCE)


@pytest.mark.parametrize("savings", [{"resolution": 0.5}, {"network": "teacher"}, {"token_keep": 0.5}, {"chunk": 2}])
def test_other_savings_are_refused(savings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="score-once"):
        Scoring(once=True, **savings)
