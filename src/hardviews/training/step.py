"""The training step: draw, choose, render, encode, step."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from hardviews.errors import InputError
from hardviews.methods.base import ClipBy, E, Method, Progress, TargetEncoding
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import Choice, HardViews
from hardviews.selection.policies import Policy
from hardviews.selection.search import mean_total
from hardviews.training.optimizers import Rates, clip_each
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
    values: dict[str, Tensor]  # cost_kept, cost_mean, iou_kept, iou_random, and the method's own
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
        steps_per_epoch: for schedules in epochs.
        clip: norm that gradients are clipped to, 0 for none.
        clip_by: the norm of every parameter by itself, or of all together.
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
        steps_per_epoch: int = 1,
        clip: float = 0.0,
        clip_by: ClipBy = "parameter",
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
        self.fabric, self.method, self.rates = fabric, method, rates
        self.steps, self.steps_per_epoch, self.clip, self.clip_by = steps, steps_per_epoch, clip, clip_by
        self.plan, self.seed, self.parts, self.resolution, self.chunk = (
            method.plan,
            seed,
            parts,
            score_resolution,
            score_chunk,
        )
        self.hard_views = HardViews(None, self.plan, policy, guard=method)
        self.network, self.optimizer = fabric.setup(method, optimizer)
        self.watch = Stopwatch(fabric.device)

    def __call__(self, images: ImageBatch, step: int) -> Report:
        fabric, plan, method, lap = self.fabric, self.plan, self.method, self.watch.lap
        method.progress = Progress(step, self.steps, self.steps_per_epoch)
        self.rates.set(self.optimizer, step)
        start, total = fabric.global_rank * len(images), fabric.world_size * len(images)
        drawn = draw(plan, images.size, stream(self.seed, "views", step), start=start, total=total).to(images.device)
        encodings, reports = [], []
        for part in range(self.parts):
            batch, candidates = self._part(images, part), drawn[self._slice(len(images), part)]
            lap("render")
            choice = self._choose(batch, candidates, stream(self.seed, "policy", step, part))
            views = candidates.take(choice.ids, plan.slot_of_kept())
            lap("score")
            kept = render(batch, views, plan)
            lap("render")
            torch.manual_seed(stream(self.seed, "forward", step, fabric.global_rank, part).initial_seed())
            with fabric.no_backward_sync(self.network, enabled=part < self.parts - 1):
                encoding = self.network(kept, targets=choice.targets, masks=views.mask)
                loss = method.loss(encoding)
                fabric.backward(loss / self.parts)
            encodings.append(detached(encoding))
            reports.append((loss.detach(), self._values(choice, candidates)))
            lap("train")
        method.after_backward()
        self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        encoding = joined(encodings)
        statistics = method.statistics(encoding)
        method.after_step(encoding)
        lap("train")
        losses, values = zip(*reports, strict=True)
        means = {key: _mean([v[key] for v in values]) for key in values[0]}
        return Report(_mean(losses), means | statistics, self.watch.marks())

    def _slice(self, count: int, part: int) -> slice:
        return slice(part * count // self.parts, (part + 1) * count // self.parts)

    def _part(self, images: ImageBatch, part: int) -> ImageBatch:
        return images[self._slice(len(images), part)]

    def _choose(self, images: ImageBatch, views: Views, generator: torch.Generator) -> Choice:
        """Renders the candidates, small, and scores them, when (and only if) the policy asks what they cost."""

        def candidates() -> list[Tensor]:
            rendered = render(images, views, self.plan, self.resolution)
            self.watch.lap("render")
            return rendered

        return self.hard_views.choose(candidates, views, generator, score=partial(self._score, masks=views.mask))

    def _score(self, candidates: list[Tensor], masks: Tensor | None) -> Costs | tuple[Costs, TargetEncoding]:
        size = self.chunk or candidates[0].shape[0]
        chunks = zip(*(torch.split(view, size) for view in candidates), strict=True)
        hidden = itertools.repeat(None) if masks is None else torch.split(masks, size, dim=1)
        with self.fabric.autocast():
            encoding = joined([self.method(list(c), masks=m) for c, m in zip(chunks, hidden, strict=False)])
        # Of smaller pictures the targets would be encoded otherwise than of those that are trained on.
        reusable = self.method.reusable(encoding) if self.resolution == 1 else None
        costs = self.method.costs(encoding)
        return costs if reusable is None else (costs, reusable)

    def _clip(self) -> None:
        if not self.clip:
            return
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        if self.clip_by == "parameter":
            clip_each([p.grad for p in parameters if p.grad is not None], self.clip)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)

    def _values(self, choice: Choice, views: Views) -> dict[str, Tensor]:
        iou = Costs(pairwise_iou(views.box)[: self.plan.targets])
        values = {"iou_kept": iou.total(choice.ids).mean(), "iou_random": mean_total(iou, self.plan).mean()}
        if choice.kept is not None and choice.mean is not None:
            values |= {"cost_kept": choice.kept.mean(), "cost_mean": choice.mean.mean()}
        return values


def detached(encoding: E) -> E:
    return encoding._replace(**{name: field.detach() for name, field in encoding._asdict().items()})


def joined(encodings: list[E]) -> E:
    """The encoding of all images, of those of its parts."""
    if len(encodings) == 1:
        return encodings[0]
    fields = zip(encodings[0]._fields, zip(*encodings, strict=True), strict=True)
    return encodings[0]._replace(**{name: torch.cat(parts, dim=1) for name, parts in fields})


def _mean(values: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(values)).mean()
