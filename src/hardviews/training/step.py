"""The training step: draw, choose, render, encode, step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from hardviews.errors import InputError
from hardviews.methods.base import ClipMode, E, Method, Progress
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import Choice, HardViews, gather
from hardviews.selection.policies import Policy, reference_of
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.selection.search import first_ids, mean_total
from hardviews.training.distributed.sharding import is_sharded, synchronise
from hardviews.training.nonfinite import NonFiniteSteps
from hardviews.training.optimizers import Rates, clip
from hardviews.training.schedules import FULL_SIZE, ResolutionSchedule
from hardviews.training.scoring.scorer import Scorer, joined
from hardviews.training.stopwatch import Stopwatch
from hardviews.views.boxes import pairwise_iou
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream


@dataclass(frozen=True)
class StepReport:
    """A step's figures; tensors are scalars on the device, so that nothing waits for them."""

    loss: Tensor
    values: dict[str, Tensor]  # cost_kept, cost_mean, iou_kept, iou_random, from NonFiniteSteps, from the method
    marks: list[tuple[str, Any]]  # for Stopwatch.seconds


# Called for every micro-batch with the step's number, images, candidates (on the CPU) and choice (on the device). It
# must not wait for the device.
Observe = Callable[[int, ImageBatch, Views, Choice], None]


def observe_nothing(step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
    pass


class Step:
    """One optimizer step on a process's images. The order of its lines is the method of the paper.

    Args:
        fabric: device, precision, processes.
        method: scored unwrapped and trained through fabric's wrapper, which synchronises gradients.
        optimizer: of the method's parameters.
        rates: learning rates and weight decay for every step.
        policy: selects the kept views.
        seed: of all randomness.
        steps: of the entire run.
        steps_per_epoch: for schedules in epochs.
        clip: maximum gradient norm, 0 for no clipping.
        clip_mode: clip every parameter by its own norm, or all by their joint norm.
        parts: micro-batches per process and step (gradient accumulation).
        scoring: how candidates are scored.
        observe: called with what was drawn and chosen.
        min_contrast: guard against empty views, as of ``HardViews``.
        selecting: the steps that choose, of which ``scoring.every`` may leave out some; None for all. The others take
            the views of the plain method.
        resolution: the size of views at every step, for scoring and training.

    Raises:
        InputError: gradient accumulation would change the method, or it does not support this way of scoring.
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
        clip_mode: ClipMode = "parameter",
        parts: int = 1,
        scoring: Scoring = EXACT,
        observe: Observe = observe_nothing,
        min_contrast: float = 0.0,
        selecting: range | None = None,
        resolution: ResolutionSchedule = FULL_SIZE,
    ) -> None:
        name = type(method).__name__
        if parts > 1 and method.needs_whole_batch:
            raise InputError(
                f"grad-accumulation: {name} compares the images of a batch, and {parts} parts would leave it fewer; "
                "give --grad-accumulation 1 and a smaller --batch-size, or more --devices"
            )
        self.fabric, self.method, self.rates = fabric, method, rates
        self.steps, self.steps_per_epoch, self.clip, self.clip_mode = steps, steps_per_epoch, clip, clip_mode
        self.plan, self.seed, self.parts, self.observe = method.plan, seed, parts, observe
        self.resolution = resolution
        self.sharded = any(is_sharded(parameter) for parameter in method.parameters())
        if self.sharded and isinstance(reference_of(policy), float):
            raise InputError("strategy fsdp: policy learnable(m) copies the whole network; give --strategy ddp")
        self.hard_views = HardViews(None, self.plan, policy, method, check=False, min_contrast=min_contrast)
        self.network, self.optimizer = fabric.setup(method, optimizer)
        self.scorer, self.selecting = Scorer(fabric, method, scoring, reference_of(policy)), selecting  # on the device
        # What learns beside the method, by its name in a checkpoint.
        learners = {"policy": policy, "exit": self.scorer.exit, "average": self.scorer.average}
        self.learners = {name: module for name, module in learners.items() if isinstance(module, nn.Module)}
        self.nonfinite = NonFiniteSteps(fabric, method, self.optimizer, *self.learners.values())
        self.watch = Stopwatch(fabric.device)

    def __call__(self, images: ImageBatch, step: int) -> StepReport:
        fabric, plan, method, lap = self.fabric, self.plan, self.method, self.watch.lap
        method.progress = Progress(step, self.steps, self.steps_per_epoch)
        self.rates.set(self.optimizer, step)
        resolution = self.resolution.at(step)
        start, total = fabric.global_rank * len(images), fabric.world_size * len(images)
        numbers = draw(plan, images.size, stream(self.seed, "views", step), start=start, total=total)
        drawn = numbers.to(images.device, non_blocking=True)
        encodings, reports = [], []
        self.nonfinite.begin()
        for part in range(self.parts):
            rows = self._slice(len(images), part)
            batch, candidates = images[rows], drawn[rows]
            lap("render")
            choice, rendered = self._choose(batch, candidates, step, part)
            views = candidates.take(choice.ids, plan.slot_of_kept())
            self.observe(step, batch, numbers[rows], choice)
            lap("score")
            kept = gather(rendered, choice.ids, plan) if rendered else render(batch, views, plan, resolution)
            del rendered
            lap("render")
            torch.manual_seed(stream(self.seed, "forward", step, fabric.global_rank, part).initial_seed())
            with fabric.no_backward_sync(self.network, enabled=part < self.parts - 1):
                with self.scorer.replay.replayed(choice.ids), self.scorer.learning():
                    encoding = self.network(kept, targets=choice.targets, masks=views.mask)
                loss = method.loss(encoding)
                fabric.backward(loss / self.parts)
            encodings.append(detached(encoding))
            reports.append((loss.detach(), self._values(choice, candidates)))
            lap("train")
        if self.sharded:
            synchronise(method)
        self.scorer.learn()
        method.after_backward()
        losses, values = zip(*reports, strict=True)
        verdict = self.nonfinite.judge([*losses, *(v["cost_mean"] for v in values if "cost_mean" in v)])
        self.clip_gradients()
        self.nonfinite.update(verdict["skipped"])
        self.optimizer.zero_grad(set_to_none=True)
        encoding = joined(encodings)
        statistics = method.statistics(encoding)
        method.after_step(encoding)
        self.scorer.follow()
        self.nonfinite.end(verdict["skipped"])
        lap("train")
        means = {key: _mean([v[key] for v in values]) for key in values[0]}
        return StepReport(_mean(losses), means | statistics | verdict, self.watch.marks())

    def _slice(self, count: int, part: int) -> slice:
        return slice(part * count // self.parts, (part + 1) * count // self.parts)

    def _choose(self, images: ImageBatch, views: Views, step: int, part: int) -> tuple[Choice, list[Tensor]]:
        """Renders and scores the candidates if this step selects and the policy needs costs; in steps that do not
        select, keeps the first views of every slot.

        Returns:
            The choice, and the candidates if training can use them as rendered: all of them, at training's size.
        """
        scoring, rendered = self.scorer.scoring, list[Tensor]()
        if step % scoring.every or (self.selecting is not None and step not in self.selecting):
            return Choice(first_ids(self.plan, len(images), images.device)), rendered

        def candidates() -> list[Tensor]:
            rendered[:] = self.scorer.candidates(images, views, self.resolution.at(step))
            self.watch.lap("render")
            return rendered

        seed = stream(self.seed, "score", step, self.fabric.global_rank, part).initial_seed()
        score = partial(self.scorer, masks=views.mask, seed=seed)
        choice = self.hard_views.choose(candidates, views, stream(self.seed, "policy", step, part), score=score)
        if scoring.network == "teacher_targets":
            # Unscored views have unknown costs, as have the combinations that contain them.
            return replace(choice, costs=None), []
        return choice, rendered if scoring.resolution == 1 else []

    def clip_gradients(self) -> None:
        if self.clip:
            clip([p.grad for p in self.method.parameters() if p.grad is not None], self.clip, self.clip_mode)

    def _values(self, choice: Choice, views: Views) -> dict[str, Tensor]:
        iou = Costs(pairwise_iou(views.box)[: self.plan.targets])
        values = {"iou_kept": iou.total(choice.ids).mean(), "iou_random": mean_total(iou, self.plan).mean()}
        if choice.kept is not None and choice.mean is not None and choice.costs is not None:
            values |= {"cost_kept": choice.kept.mean(), "cost_mean": choice.mean.mean()}
        return values


def detached(encoding: E) -> E:
    return encoding._replace(**{name: field.detach() for name, field in encoding._asdict().items()})


def _mean(values: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(values)).mean()
