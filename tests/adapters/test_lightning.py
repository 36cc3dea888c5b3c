"""The callback gives training_step what HardViews chooses, and leaves the module as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hardviews import HardViews, pairwise
from hardviews.errors import InputError

pytest.importorskip("lightning")

from lightning import LightningModule, Trainer

from hardviews.adapters.lightning import HardViewsCallback
from hardviews.adapters.stable_pretraining import StablePretrainingCallback


def loss(a: Tensor, b: Tensor) -> Tensor:
    return -F.cosine_similarity(a, b)


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.seen: list[Any] = []
        self.states: list[dict[str, Tensor]] = []
        self.precisions: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        self.precisions.append(out.dtype)
        return out

    def on_train_batch_start(self, batch: Any, index: int) -> None:  # after the callbacks'
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.seen.append(batch)
        views = batch["views"] if isinstance(batch, dict) else batch
        x0, x1 = [view["image"] for view in views] if isinstance(batch, dict) else views
        return loss(self(x0), self(x1)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Module, data: list[Any], callback: HardViewsCallback, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[callback], **{**quiet, **options})
    trainer.fit(module, DataLoader(data, batch_size=4))  # type: ignore[arg-type]
    return trainer


def views(count: int = 4) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [list(torch.randn(count, 6, generator=generator)) for _ in range(8)]


def test_training_step_gets_the_hardest_and_scoring_leaves_no_trace(tmp_path: Path) -> None:
    module, before = Module(), Module().train()
    trainer = fit(module, views(), HardViewsCallback(lambda m: pairwise(m, loss)), default_root_dir=tmp_path)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in module.states[0].items())
    before.load_state_dict(module.states[1])
    candidates = [torch.stack([image[view] for image in views()[4:]]) for view in range(4)]
    hard = HardViews(pairwise(before, loss))
    choice = hard.choose(candidates)
    for ours, theirs in zip(module.seen[1], hard(candidates), strict=True):
        assert torch.equal(ours, theirs)
    assert choice.kept is not None
    assert choice.mean is not None
    torch.testing.assert_close(trainer.callback_metrics["hard_views/kept"], choice.kept.mean())
    torch.testing.assert_close(trainer.callback_metrics["hard_views/mean"], choice.mean.mean())


def test_a_list_of_views_may_come_first_and_precision_is_the_trainers(tmp_path: Path) -> None:
    module = Module()

    class Labelled(HardViewsCallback):
        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
            super().on_train_batch_start(trainer, module, batch, index)
            assert batch[1].tolist() == [7] * 4
            batch[:] = batch[0]  # for training_step above

    data = [(image, 7) for image in views()]
    fit(module, data, Labelled(lambda m: pairwise(m, loss)), default_root_dir=tmp_path, precision="bf16-mixed")
    assert set(module.precisions) == {torch.bfloat16}
    assert len(module.precisions) == 2 * (4 + 2)


def test_what_a_policy_draws_resumes(tmp_path: Path) -> None:
    def callback(seed: int) -> HardViewsCallback:
        return HardViewsCallback(lambda m: pairwise(m, loss), policy="random", seed=seed)

    module, first, other = Module(), callback(1), callback(2)
    trainer = fit(module, views(), first, default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Module()
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_epochs=2, accelerator="cpu", callbacks=[other], default_root_dir=tmp_path, **options).fit(
        again, DataLoader(views(), batch_size=4), ckpt_path=str(tmp_path / "last.ckpt")  # type: ignore[arg-type]
    )  # fmt: skip
    module.seen.clear()
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, DataLoader(views(), batch_size=4))  # type: ignore[arg-type]
    assert len(module.seen) == len(again.seen) == 2
    for ours, theirs in zip(module.seen, again.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_a_policy_learns_is_in_the_trainers_checkpoint() -> None:
    first, other = (HardViewsCallback(lambda m: pairwise(m, loss), policy="unexpected") for _ in range(2))
    pictures = [torch.rand(8, 3, 16, 16) for _ in range(4)]
    score = pairwise(nn.Flatten(), loss)
    first.hard.choose(pictures, score=score)
    saved = first.state_dict()
    other.load_state_dict(saved)
    assert saved["policy"]["rows"].sum() > 0
    for callback in (first, other):
        callback.hard.choose(pictures, score=score)
    torch.testing.assert_close(first.state_dict(), other.state_dict(), atol=0, rtol=0)


def test_dictionaries_of_stable_pretraining(tmp_path: Path) -> None:
    plain, module = Module(), Module()
    fit(plain, views(), HardViewsCallback(lambda m: pairwise(m, loss)), default_root_dir=tmp_path)
    data = [{"views": [{"image": view, "label": place} for view in image]} for place, image in enumerate(views())]
    fit(module, data, StablePretrainingCallback(lambda m: pairwise(m, loss)), default_root_dir=tmp_path)
    for batch, theirs in zip(module.seen, plain.seen, strict=True):
        assert len(batch["views"]) == 2
        assert all(torch.equal(view["image"], other) for view, other in zip(batch["views"], theirs, strict=True))
    assert [view["label"].tolist() for view in module.seen[1]["views"]] == [[4, 5, 6, 7]] * 2


def test_batches_without_candidates_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the batch holds 2 views, all of which are kept; let the loader give more"):
        fit(Module(), views(2), HardViewsCallback(lambda m: pairwise(m, loss)), default_root_dir=tmp_path)
    data = [{"image": image} for image in views()]
    with pytest.raises(InputError, match="a batch holds a list of views, not dict; override candidates"):
        fit(Module(), data, HardViewsCallback(lambda m: pairwise(m, loss)), default_root_dir=tmp_path)


def test_a_checkpoint_without_what_a_policy_learns_is_loaded() -> None:
    callback = HardViewsCallback(lambda m: pairwise(m, loss), policy="unexpected")
    older: list[dict[str, Any]] = [{"policy": {}}, {}]  # written with another policy, and by an earlier version
    for saved in older:
        callback.load_state_dict({"generator": callback.hard.generator.get_state(), **saved})
