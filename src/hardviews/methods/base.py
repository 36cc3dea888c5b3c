"""The interface of a self-supervised method: it encodes views and computes their costs. It knows nothing of
selection."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hardviews.networks.assignment import average
from hardviews.selection.costs import Costs
from hardviews.views.plan import ViewPlan

# A method's encoding: a NamedTuple of tensors [views, B, ...], so that parts of a batch can be joined along B.
E = TypeVar("E", bound=NamedTuple)

R = TypeVar("R", Costs, Tensor)

ClipMode = Literal["parameter", "all"]


@dataclass(frozen=True)
class Training:
    """The training settings of a method's paper, used unless the user gives others."""

    optimizer: str
    lr: float  # per 256 images
    weight_decay: float
    momentum: float = 0.9
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    decay_bias_and_norm: bool = True  # whether biases and norms are decayed too
    weight_decay_end: float | None = None  # None: weight decay stays constant
    clip: float = 0.0  # maximum gradient norm, 0 for no clipping
    clip_mode: ClipMode = "parameter"


class Progress(NamedTuple):
    """How far a run is, for schedules."""

    step: int = 0  # optimizer steps done
    steps: int = 1  # of the entire run
    steps_per_epoch: int = 1

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch


class TargetEncoding(NamedTuple):
    """Encodings of target views for reuse; implements ``Targets`` of selection."""

    fields: tuple[Tensor, ...]  # [T, B, ...] each

    def take(self, ids: Tensor) -> "TargetEncoding":
        """The encodings of the kept target views, ids ``[K_T, B]``."""
        image = torch.arange(ids.shape[1], device=ids.device)
        return TargetEncoding(tuple(field[ids, image] for field in self.fields))


class Method(nn.Module, ABC, Generic[E]):
    """Base class: a method is one file in this folder with one such class.

    Constructor arguments after ``backbone`` and ``plan`` become ``--method.X`` on the command line; arguments of
    ``default_plan`` after ``size`` become ``--plan.X``.

    Args:
        backbone: images ``[B, C, h, w]`` to features ``[B, D]``.
        plan: the views to train on.
    """

    training_defaults: ClassVar[Training]
    # Submodules whose learning rate stays at its peak (SimSiam's predictor).
    constant_rate: ClassVar[tuple[str, ...]] = ()
    # The network that evaluation and export read: the teacher's backbone if there is a teacher.
    evaluated: ClassVar[str] = "backbone"
    # Whether the loss compares the images of a batch, other than through BN: micro-batches would compare fewer.
    needs_whole_batch: ClassVar[bool] = False

    backbone: nn.Module
    progress: Progress = Progress()  # the training loop keeps it up to date

    def __init__(self, backbone: nn.Module, plan: ViewPlan) -> None:
        super().__init__()
        self.backbone = backbone
        self.plan = plan

    @staticmethod
    @abstractmethod
    def default_plan(size: int) -> ViewPlan:
        """The views of the method's paper for images of ``size`` pixels, with hard views."""

    @abstractmethod
    def forward(self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None) -> E:
        """Encodes views, each ``[B, C, h, w]``, target views first. Changes nothing except BN statistics.

        Args:
            views: the K kept views in training, the V candidates in scoring.
            targets: encodings of the kept target views from scoring, for reuse; None to encode them.
            masks: bool ``[views, B, rows, columns]``, the hidden patches of each view; None if the plan masks nothing.
        """

    @abstractmethod
    def costs(self, encoding: E) -> Costs:
        """The cost of every view of every image: pure, differentiable, in float32 or better."""

    def loss(self, encoding: E) -> Tensor:
        """The training loss: the total of all encoded views, averaged over images; scalar.

        A method may add terms of the whole batch, which no choice of views depends on (VICReg, LeJEPA).
        """
        costs = self.costs(encoding)
        return costs.total(costs.all_ids()).mean()

    def reusable(self, encoding: E) -> TargetEncoding | None:
        """Encodings that a later ``forward`` may take as ``targets`` of these views; None if it has to encode again."""
        return None

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        """Costs in which the momentum teacher also stands in for the student, and its reusable target encodings.

        Only scoring calls this, and only for methods that have a teacher and override it.

        Args:
            views: the V candidates, or only the T target views; the costs are of these.
            masks: of these views.
            reuse: whether training can reuse the targets; if not, anything that only training needs may be left out.
        """
        raise NotImplementedError

    def after_backward(self) -> None:
        """Changes gradients before they are clipped and the optimizer takes them."""

    def after_step(self, encoding: E) -> None:
        """Updates everything that the optimizer does not, such as a teacher or a centre.

        Args:
            encoding: of all images that this process trained on in this step, without gradient.
        """

    def statistics(self, encoding: E) -> dict[str, Tensor]:
        """Scalars to log from a step's encoding, such as signs of a collapse."""
        return {}


def feature_std(vectors: Tensor) -> Tensor:
    """How far apart a network places images: the standard deviation of unit vectors over the batch of all processes,
    times the square root of their dimension, after Chen and He (CVPR 2021, section 4.1). 1 means spread evenly over the
    sphere, 0 a single point.

    Args:
        vectors: ``[..., B, D]``, not normalised.
    """
    unit: Tensor = nn.functional.normalize(vectors.detach().float(), dim=-1)
    centre = unit.mean(-2)
    average(centre)
    variance = (unit - centre.unsqueeze(-2)).square().mean(-2)
    average(variance)
    return variance.sqrt().mean() * math.sqrt(vectors.shape[-1])


def outside_autocast(function: Callable[[Any, E], R]) -> Callable[[Any, E], R]:
    """Runs a method of an encoding (``costs``) in float32, even inside the autocast region of a caller's own loop."""

    @wraps(function)
    def wrapped(self: Any, encoding: E) -> R:
        with torch.autocast(encoding[0].device.type, enabled=False):
            return function(self, encoding)

    return wrapped


def per_view(x: Tensor, views: int) -> Tensor:
    """Reshapes a batch of ``views`` views, ``[views·B, ...]``, to ``[views, B, ...]``."""
    return x.view(views, len(x) // views, *x.shape[1:])  # not -1, which is ambiguous if another dimension is 0


def squared_distances(views: Tensor, targets: int) -> Tensor:
    """How far apart views ``[V, B, D]`` and the first ``targets`` of them are, ``[T, V, B]``: the mean of squared
    differences over D."""
    # Differences, since those of close views would be lost in |a|² + |b|² - 2ab; a target at a time, to hold V·B·D.
    return torch.stack([(views - target).square().mean(-1) for target in views[:targets]])


def full_precision(x: Tensor) -> Tensor:
    """Upcasts to float32 if necessary, so that costs are never rounded to bf16; float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
