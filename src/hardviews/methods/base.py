"""What a self-supervised method is: it encodes views and says what each of them costs. It never hears of selection."""

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

# What a method's encoder yields: a NamedTuple of tensors [views, B, ...], so that parts of a batch can be joined
# along B.
E = TypeVar("E", bound=NamedTuple)

ClipMode = Literal["parameter", "all"]


@dataclass(frozen=True)
class Training:
    """How a method's paper trains it, taken where the user says nothing else."""

    optimizer: str
    lr: float  # per 256 images
    weight_decay: float
    momentum: float = 0.9
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    decay_bias_and_norm: bool = True  # whether biases and norms are decayed too
    weight_decay_end: float | None = None  # None: weight decay does not change
    clip: float = 0.0  # norm that gradients are clipped to, 0 for none
    clip_mode: ClipMode = "parameter"


class Progress(NamedTuple):
    """Where a run stands, for schedules."""

    step: int = 0  # optimizer steps done
    steps: int = 1  # of the whole run
    steps_per_epoch: int = 1

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch


class TargetEncoding(NamedTuple):
    """What was encoded of target views, to be used again: ``Targets`` of selection."""

    fields: tuple[Tensor, ...]  # [T, B, ...] each

    def take(self, ids: Tensor) -> "TargetEncoding":
        """The same of the kept target views, ids ``[K_T, B]``."""
        image = torch.arange(ids.shape[1], device=ids.device)
        return TargetEncoding(tuple(field[ids, image] for field in self.fields))


class Method(nn.Module, ABC, Generic[E]):
    """A method is one file beside this one, with one class like this.

    Constructor arguments after ``backbone`` and ``plan`` are ``--method.X`` on the command line, those of
    ``default_plan`` after ``size`` are ``--plan.X``.

    Args:
        backbone: images ``[B, 3, h, w]`` to features ``[B, D]``.
        plan: the views it is trained on.
    """

    training_defaults: ClassVar[Training]
    # Submodules whose learning rate stays at its peak (SimSiam's predictor).
    constant_rate: ClassVar[tuple[str, ...]] = ()
    # What evaluation and export read: of a method with a teacher, the teacher's.
    evaluated: ClassVar[str] = "backbone"
    # Whether the loss of an image depends on the other images of the batch, other than through BN.
    needs_whole_batch: ClassVar[bool] = False

    backbone: nn.Module
    progress: Progress = Progress()  # kept up to date by whoever trains

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
        """Encodes views, each ``[B, 3, h, w]``, target views first. Changes nothing but BN statistics.

        Args:
            views: K kept views in training, V candidates in scoring.
            targets: what scoring encoded of the kept target views, to be used again; None encodes them.
            masks: bool ``[views, B, rows, columns]``, the patches of each view that are hidden; None where the plan
                masks nothing.
        """

    @abstractmethod
    def costs(self, encoding: E) -> Costs:
        """What every view of every image costs: pure, differentiable, in float32 or better."""

    def loss(self, encoding: E) -> Tensor:
        """The training loss: the mean over images of the total over all the encoded views; scalar."""
        costs = self.costs(encoding)
        return costs.total(costs.all_ids()).mean()

    def reusable(self, encoding: E) -> TargetEncoding | None:
        """What ``forward`` may be given as ``targets`` of the views encoded here; None where it has to encode anew."""
        return None

    def teacher_costs(
        self, views: list[Tensor], masks: Tensor | None = None, reuse: bool = True
    ) -> tuple[Costs, TargetEncoding | None]:
        """Costs in which the momentum teacher stands for the student too, and what of it is ``reusable``.

        Nothing but scoring asks for them, and only where a method has a teacher and overrides this.

        Args:
            views: the V candidates, or the T target views alone, of which there are costs then.
            masks: of them.
            reuse: whether training can use the targets again; if not, what only it needs may be left out.
        """
        raise NotImplementedError

    def after_backward(self) -> None:
        """Changes gradients before they are clipped and the optimizer takes them."""

    def after_step(self, encoding: E) -> None:
        """Moves what is not moved by the optimizer, such as a teacher or a centre.

        Args:
            encoding: of all the images that the process trained on in this step, without gradient.
        """

    def statistics(self, encoding: E) -> dict[str, Tensor]:
        """Scalars to log of a step's encoding, such as those that show a collapse."""
        return {}


def feature_std(vectors: Tensor) -> Tensor:
    """How far apart images are to a network: the standard deviation of unit vectors over the batch of all processes,
    times the root of their dimension, after Chen and He (CVPR 2021, section 4.1). 1 is spread evenly over the sphere, 0
    is one point.

    Args:
        vectors: ``[..., B, D]``, of any length.
    """
    unit: Tensor = nn.functional.normalize(vectors.detach().float(), dim=-1)
    centre = unit.mean(-2)
    average(centre)
    variance = (unit - centre.unsqueeze(-2)).square().mean(-2)
    average(variance)
    return variance.sqrt().mean() * math.sqrt(vectors.shape[-1])


def outside_autocast(costs: Callable[[Any, E], Costs]) -> Callable[[Any, E], Costs]:
    """Keeps the products of a ``costs`` method in float32, also in the autocast region of a loop of someone's own."""

    @wraps(costs)
    def wrapped(self: Any, encoding: E) -> Costs:
        with torch.autocast(encoding[0].device.type, enabled=False):
            return costs(self, encoding)

    return wrapped


def per_view(x: Tensor, views: int) -> Tensor:
    """What one batch of ``views`` views gave, ``[views·B, ...]``, as ``[views, B, ...]``."""
    return x.view(views, len(x) // views, *x.shape[1:])  # not -1, which is no number where the rest is empty


def full_precision(x: Tensor) -> Tensor:
    """In float32 where it came in less, so that costs are never rounded to bf16; float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
