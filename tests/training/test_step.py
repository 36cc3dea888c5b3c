"""The step against a loop written by hand, and what its options must not change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor

from hardviews.methods.simclr import SimCLR
from hardviews.methods.simsiam import SimSiam
from hardviews.selection import policies
from hardviews.selection.scoring import Scoring
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.training.optimizers import Rates, clip, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, ibot, tiny_vit
from tests.methods.tiny import TinyBackbone, without_bn

STEPS = 4


def simsiam(bn: bool, plain: bool = False) -> SimSiam:
    torch.manual_seed(0)
    plan = SimSiam.default_plan(16)
    method = SimSiam(TinyBackbone(), plan.without_selection() if plain else plan, dim=16, predictor_dim=8)
    return method if bn else without_bn(method)  # type: ignore[return-value]


def images(index: int) -> ImageBatch:
    blocks = torch.randint(0, 256, (8, 4, 3, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
    return ImageBatch.pack(list(blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)))


def trained(method: Any, **options: Any) -> tuple[list[float], Tensor]:
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer = create_optimizer("sgd", parameter_groups(method, 1e-4, True, method.constant_rate), 0.9)
    step = Step(
        fabric, method, optimizer, Rates(0.1, 0.0, STEPS, 0), policies.named("hardest"), 3, steps=STEPS, **options
    )
    losses = []
    for index in range(STEPS):
        step.watch.start()
        losses.append(step(images(index), index).loss.item())
    return losses, torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def test_as_many_views_as_are_kept_is_the_plain_method_bit_for_bit() -> None:
    losses, parameters = trained(simsiam(bn=True, plain=True))

    method = simsiam(bn=True, plain=True)
    plan = method.plan
    groups = [
        {"params": [*method.backbone.parameters(), *method.projector.parameters()]},
        {"params": list(method.predictor.parameters())},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-4)
    for index in range(STEPS):
        optimizer.param_groups[0]["lr"] = Rates(0.1, 0.0, STEPS, 0).at(index)
        batch = images(index)
        a, b = render(batch, draw(plan, batch.size, stream(3, "views", index)), plan)
        loss = method.loss(method([a, b]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert loss.item() == losses[index]
    by_hand = torch.cat([parameter.detach().flatten() for parameter in method.parameters()])
    assert torch.equal(parameters, by_hand)


def test_parts_and_chunks_change_nothing_without_bn() -> None:
    losses, parameters = trained(simsiam(bn=False))
    for options in ({"parts": 2}, {"parts": 4}, {"scoring": Scoring(chunk=3)}):
        others, other = trained(simsiam(bn=False), **options)
        assert others == pytest.approx(losses, abs=1e-5)
        torch.testing.assert_close(other, parameters, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_parts_and_chunks_keep_centres_teachers_and_masks(name: str) -> None:
    def created() -> Any:
        method: Any = (dino(tiny_vit) if name == "dino" else ibot()).double()
        for module in method.modules():  # float64, and small steps: else rounding decides between close costs
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return method

    whole = created()
    losses, _ = trained(whole, clip=0.03)
    for options in ({"parts": 2}, {"parts": 4}, {"scoring": Scoring(chunk=3)}):
        method = created()
        others, _ = trained(method, clip=0.03, **options)
        assert others == pytest.approx(losses, abs=1e-6)
        torch.testing.assert_close(method.state_dict(), whole.state_dict(), atol=1e-6, rtol=0)
    assert not torch.equal(whole.assignment.centre, created().assignment.centre)


def test_clipping_by_parameter_and_by_all() -> None:
    """The first step of plain SGD from rest moves a parameter by rate times its clipped gradient."""
    for clip_mode in ("parameter", "all"):
        before = simsiam(bn=False).state_dict()
        method = simsiam(bn=False)
        groups = parameter_groups(method, 0.0, True, method.constant_rate)
        step = Step(
            Fabric(accelerator="cpu", devices=1), method, create_optimizer("sgd", groups, 0.0), Rates(1.0, 0.0, 1, 0),
            policies.named("hardest"), 3, steps=1, clip=1e-3, clip_mode=clip_mode,
        )  # fmt: skip
        step.watch.start()
        step(images(0), 0)
        moved = [(value - before[name]).norm() for name, value in method.state_dict().items()]
        assert max(moved) <= 1e-3 + 1e-6
        if clip_mode == "all":
            assert torch.stack(moved).norm() == pytest.approx(1e-3, rel=1e-3)
        else:
            assert sum(norm > 0.99e-3 for norm in moved) > 1
    gradients = [torch.full((4,), 3.0), torch.full((2, 2), 0.1)]
    clip(gradients, 1.0, "parameter")
    assert gradients[0].norm() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(gradients[1], torch.full((2, 2), 0.1))


def test_a_scaled_loss_is_clipped_as_an_unscaled_one() -> None:
    """fp16 scales the loss by 65,536 before the backward; what is clipped must be what it was."""

    def moved(precision: str, clip: float) -> Tensor:
        before, method = simsiam(bn=False), simsiam(bn=False)
        groups = parameter_groups(method, 0.0, True, method.constant_rate)
        # Fabric itself takes bf16 for fp16 on a CPU, without a scaler.
        scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[scaler] if precision == "16-mixed" else [])
        step = Step(
            fabric, method, create_optimizer("sgd", groups, 0.0), Rates(1.0, 0.0, 1, 0), policies.named("hardest"), 3,
            steps=1, clip=clip,
        )  # fmt: skip
        step.watch.start()
        step(images(0), 0)
        pairs = zip(method.parameters(), before.parameters(), strict=True)
        return torch.stack([(after - start).detach().norm() for after, start in pairs])

    clipped = moved("16-mixed", 1e-2)
    assert clipped.max() <= 1e-2 + 1e-6
    assert (clipped > 0).any()
    torch.testing.assert_close(clipped, moved("32-true", 1e-2), rtol=0.05, atol=1e-4)


def test_chunks_keep_simclrs_negatives() -> None:
    def simclr() -> Any:
        torch.manual_seed(0)
        return without_bn(SimCLR(TinyBackbone(), SimCLR.default_plan(16), dim=8, hidden_dim=16))

    losses, parameters = trained(simclr())
    others, other = trained(simclr(), scoring=Scoring(chunk=3))
    assert others == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(other, parameters, atol=1e-5, rtol=0)


def test_scoring_small_leaves_training_at_full_size() -> None:
    seen: list[tuple[bool, int]] = []
    method = simsiam(bn=False)
    method.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.append((torch.is_grad_enabled(), len(inputs[0][0, 0])))
    )
    trained(method, scoring=Scoring(resolution=0.5))
    assert set(seen) == {(False, 8), (True, 16)}
    assert len(seen) == STEPS * (4 + 2)


def test_outside_the_steps_that_select_the_first_views_are_taken() -> None:
    kept: list[tuple[Tensor, bool]] = []
    trained(
        simsiam(bn=False), selecting=range(1, 3), scoring=Scoring(),
        observe=lambda *seen: kept.append((seen[3].ids, seen[3].costs is not None)),
    )  # fmt: skip
    first = torch.tensor([[0], [1]]).expand(-1, 8)
    assert [scored for _, scored in kept] == [False, True, True, False]
    assert [torch.equal(ids, first) for ids, _ in kept] == [True, False, False, True]


@pytest.mark.parametrize("name", ["simsiam", "dino", "ibot"])
@pytest.mark.parametrize("scoring", [Scoring(), Scoring(resolution=0.5), Scoring(every=2)])
def test_nothing_in_a_step_waits_for_a_gpu(name: str, scoring: Scoring, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    method: Any = simsiam(bn=True) if name == "simsiam" else dino(tiny_vit) if name == "dino" else ibot()
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    optimizer = create_optimizer("adamw", parameter_groups(method, 1e-4, True, method.constant_rate), 0.9, fused=True)
    count = 8 * STEPS  # every image is followed, and has its picture kept
    telemetry = Recorder(tmp_path, method.plan, Followed(count, count, count, 0, "hardest", scoring.every, STEPS))
    step = Step(
        fabric, method, optimizer, Rates(1e-4, 0.0, STEPS, 0), policies.named("hardest"), 3, steps=STEPS,
        scoring=scoring, clip=1.0, parts=2, observe=telemetry.note,
    )  # fmt: skip
    batches = [replace(images(s), index=torch.arange(8) + 8 * s).to("cuda") for s in range(STEPS)]
    for index, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if index > 1 else "default")  # the first steps fill caches
        try:
            step.watch.start()
            step(batch, index)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    telemetry.fetch()
    telemetry.write(ended=True)
    rows = np.load(tmp_path / "epoch-0000.npz")
    assert sorted(rows["image"]) == list(range(count))
    assert (rows["rank"][rows["chosen"]] >= 0).all()
