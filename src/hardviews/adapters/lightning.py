"""Hard views in a LightningModule that is left as it is: a callback chooses before ``training_step`` is called."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.selection.hard_views import HardViews, Score, gather
from hardviews.views.plan import Slot, ViewPlan


class HardViewsCallback(Callback):
    """Replaces the candidate views in every training batch by the hardest of them, and logs ``hard_views/kept`` and
    ``hard_views/mean``: the mean cost of the kept views, and of a random choice.

    The loader gives more views than the module trains on. A batch is a list of views ``[B, ...]``, or holds it first:
    ``[views, labels]``. For others override ``candidates`` and ``replace``. The trainer's checkpoint holds the state.

    Args:
        score: the module, unwrapped, to what ``HardViews`` is given, such as ``lambda m: pairwise(m, loss)``.
        arguments: plan, policy, keep, guard and seed of ``HardViews``.
    """

    def __init__(self, score: Callable[[Any], Score], **arguments: Any) -> None:
        self.score, self.hard = score, HardViews(None, **arguments)

    def candidates(self, batch: Any) -> list[Tensor]:
        """The V candidate views of a batch."""
        views = batch[0] if isinstance(batch, list | tuple) and not isinstance(batch[0], Tensor) else batch
        if not isinstance(views, list):
            raise InputError(f"a batch holds a list of views, not {type(views).__name__}; override candidates")
        return views

    def replace(self, batch: Any, kept: list[Tensor], ids: Tensor) -> None:
        """Puts the K kept views, the candidates ``ids`` ``[K, B]``, in the batch."""
        self.candidates(batch)[:] = kept

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        views = self.candidates(batch)
        plan = self.hard.plan or ViewPlan((Slot(draw=len(views), keep=self.hard.keep),))
        if not plan.selects:
            raise InputError(f"the batch holds {len(views)} views, all of which are kept; let the loader give more")
        with trainer.precision_plugin.train_step_context():
            choice = self.hard.choose(views, score=self.score(module))
        self.replace(batch, gather(views, choice.ids, plan), choice.ids)
        if choice.kept is not None and choice.mean is not None:
            module.log_dict({"hard_views/kept": choice.kept.mean(), "hard_views/mean": choice.mean.mean()})

    def state_dict(self) -> dict[str, Any]:
        policy = self.hard.policy
        learned = policy.state_dict() if isinstance(policy, nn.Module) else {}
        return {"generator": self.hard.generator.get_state(), "policy": learned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.hard.policy, nn.Module) and state_dict.get("policy"):  # another policy or version saves none
            self.hard.policy.load_state_dict(state_dict["policy"])
        self.hard.generator.set_state(torch.as_tensor(state_dict["generator"], dtype=torch.uint8).cpu())
