"""The training step: draw, choose, render, encode, step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from hardviews.errors import InputError
from hardviews.methods.base import Method
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import Choice, HardViews
from hardviews.selection.policies import Policy
from hardviews.selection.search import mean_total
from hardviews.training.optimizers import Rates
from hardviews.training.stopwatch import Stopwatch
from hardviews.views.boxes import pairwise_iou
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream


@dataclass(frozen=True)
class Report:
    """What one step says of itself; tensors are scalars on the device, so that nothing waits for them."""

    loss: Tensor
    values: dict[str, Tensor]  # cost_kept, cost_mean, iou_kept, iou_random
    marks: list[tuple[str, Any]]  # for Stopwatch.seconds


class Step:
    """One optimizer step on a process's images. The order of its lines is the method of the paper.

    Args:
        fabric: device, precision, processes.
        method: as built; it is scored unwrapped and trained through fabric's wrapper, which synchronises gradients.
        optimizer: of the method's parameters.
        rates: the learning rate at every step.
        policy: how the kept views are chosen.
        seed: of everything drawn.
        steps: of the whole run.
        parts: micro-batches a process's images are taken in.
        score_resolution: candidates are scored at this part of their size.
        score_chunk: images encoded at once in scoring, 0 for all.

    Raises:
        InputError: parts or chunks would change the method.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method[Any],
        optimizer: Optimizer,
        rates: Rates,
        policy: Policy,
        seed: int,
        *,
        steps: int,
        parts: int = 1,
        score_resolution: float = 1.0,
        score_chunk: int = 0,
    ) -> None:
        name = type(method).__name__
        if parts > 1 and method.needs_whole_batch:
            raise InputError(
                f"accumulate: {name} takes its negatives from the batch, and {parts} parts would leave it fewer; "
                "give accumulate 1 and a smaller batch-size, or more devices"
            )
        norms = [m for m in method.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase) and m.training]
        if score_chunk and norms:
            raise InputError("score-chunk: this network has BN, whose statistics would be those of a chunk; give 0")
        self.fabric, self.method, self.rates, self.steps = fabric, method, rates, steps
        self.plan, self.seed, self.parts, self.resolution, self.chunk = (
            method.plan,
            seed,
            parts,
            score_resolution,
            score_chunk,
        )
        self.hard_views = HardViews(self._score, self.plan, policy, guard=method)
        self.network, self.optimizer = fabric.setup(method, optimizer)
        self.watch = Stopwatch(fabric.device)

    def __call__(self, images: ImageBatch, step: int) -> Report:
        fabric, plan, method, lap = self.fabric, self.plan, self.method, self.watch.lap
        self.rates.set(self.optimizer, step)
        start, total = fabric.global_rank * len(images), fabric.world_size * len(images)
        drawn = draw(plan, images.size, stream(self.seed, "views", step), start=start, total=total).to(images.device)
        reports = []
        for part in range(self.parts):
            batch, views = self._part(images, part), drawn[self._slice(len(images), part)]
            lap("render")
            choice = self.hard_views.choose(
                self._candidates(batch, views), views, stream(self.seed, "policy", step, part)
            )
            lap("score")
            kept = render(batch, views.take(choice.ids, plan.slot_of_kept()), plan)
            lap("render")
            torch.manual_seed(stream(self.seed, "forward", step, fabric.global_rank, part).initial_seed())
            with fabric.no_backward_sync(self.network, enabled=part < self.parts - 1):
                encoding = self.network(kept, targets=choice.targets)
                loss = method.loss(encoding)
                fabric.backward(loss / self.parts)
            reports.append((loss.detach(), self._values(choice, views)))
            lap("train")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        method.after_step(encoding, (step + 1) / self.steps)
        lap("train")
        losses, values = zip(*reports, strict=True)
        return Report(_mean(losses), {key: _mean([v[key] for v in values]) for key in values[0]}, self.watch.marks())

    def _slice(self, count: int, part: int) -> slice:
        return slice(part * count // self.parts, (part + 1) * count // self.parts)

    def _part(self, images: ImageBatch, part: int) -> ImageBatch:
        return images[self._slice(len(images), part)]

    def _candidates(self, images: ImageBatch, views: Views) -> Callable[[], list[Tensor]]:
        """Renders the candidates, small, when (and only if) the policy asks what they cost."""

        def candidates() -> list[Tensor]:
            rendered = render(images, views, self.plan, self.resolution)
            self.watch.lap("render")
            return rendered

        return candidates

    def _score(self, candidates: list[Tensor]) -> Costs:
        chunks = [torch.split(view, self.chunk or len(view)) for view in candidates]
        with self.fabric.autocast():
            encodings = [self.method(list(chunk)) for chunk in zip(*chunks, strict=True)]
        fields = [torch.cat(field, dim=1) for field in zip(*encodings, strict=True)]
        return self.method.costs(type(encodings[0])(*fields))

    def _values(self, choice: Choice, views: Views) -> dict[str, Tensor]:
        iou = Costs(pairwise_iou(views.box)[: self.plan.targets])
        values = {"iou_kept": iou.total(choice.ids).mean(), "iou_random": mean_total(iou, self.plan).mean()}
        if choice.kept is not None and choice.mean is not None:
            values |= {"cost_kept": choice.kept.mean(), "cost_mean": choice.mean.mean()}
        return values


def _mean(values: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(values)).mean()
