"""LeJEPA: Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025
(arXiv 2511.08544)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from hardviews.errors import InputError
from hardviews.methods.base import (
    Method,
    TargetEncoding,
    Training,
    feature_std,
    full_precision,
    outside_autocast,
    squared_distances,
)
from hardviews.methods.dino import encode
from hardviews.networks.backbones import feature_dim
from hardviews.networks.gather import place
from hardviews.networks.heads import mlp
from hardviews.selection.costs import Costs
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.streams import stream
from hardviews.views.transfer import to_device

# The integral over frequencies: trapezoids between 17 knots from 0 to 3, twice, since the integrand is even. The
# paper's listing goes from -5 to 5; the authors' code has gone to 3 since.
KNOTS, REACH = 17, 3.0


class LeJEPAEncoding(NamedTuple):
    projection: Tensor  # [V, B, D]


class LeJEPA(Method[LeJEPAEncoding]):
    """Draws all views of an image to the centre of its global views, while the embeddings of each view are kept
    distributed like an isotropic Gaussian (SIGReg). No teacher, no stop-gradient, no predictor.

    With K kept views ``z`` of D dimensions, T of them global, N images and the weight λ of SIGReg, the loss is::

        (1 - λ) · mean over images, k and d of (z_k - c)²,  c = mean of the T global views       per image
        +     λ · mean over k of SIGReg({z_k of all N images})                                   of the batch

    The first part is what a choice of views costs; the second depends on all images of all processes, and is computed
    of the kept views alone. See ``costs`` and ``sigreg``.

    Args:
        backbone: images to features.
        plan: global views, which are targets, and local views, which are not.
        dim: width of the embedding.
        hidden_dim: width of the projector's two hidden layers.
        weight: λ, 0 to 1: of SIGReg; the distances have 1 - λ.
        directions: number of random directions of SIGReg in a step.
    """

    training_defaults = Training(
        optimizer="adamw", lr=5e-4, weight_decay=0.05, min_lr=5e-7, warmup_epochs=1.0, decay_bias_and_norm=True
    )
    needs_whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        plan: ViewPlan,
        dim: int = 64,
        hidden_dim: int = 2048,
        weight: float = 0.05,
        directions: int = 1024,
    ) -> None:
        super().__init__(backbone, plan)
        if not 0 <= weight <= 1:
            raise InputError(f"method.weight is 0 to 1, not {weight}")
        if directions < 1:
            raise InputError(f"method.directions must be at least 1, got {directions}")
        self.weight, self.directions = weight, directions
        self.projector = mlp([feature_dim(backbone), hidden_dim, hidden_dim, dim])

    @staticmethod
    def default_plan(
        size: int,
        scale: tuple[float, float] = (0.3, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.3),
        local_size: int | None = None,
        globals: int = 2,
        locals: int = 6,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grey_p: float = 0.2,
        blur_p: float = 0.5,
        solarize_p: float = 0.2,
    ) -> ViewPlan:
        """The views that the authors' code recommends; draws twice as many candidates of both kinds as it keeps, which
        is this library's choice.

        Args:
            size: side of a global view in pixels.
            scale: range of a global crop's area as a fraction of the image's.
            local_scale: the same for local crops.
            local_size: side of a local view in pixels; by default 98 for 224, and in proportion.
            globals: number of global views kept.
            locals: number of local views kept.
            brightness, contrast, saturation, hue: strengths of the colour jitter, applied with probability 0.8.
            grey_p: probability of a grey view.
            blur_p: probability of a Gaussian blur of 0.1 to 2 pixels.
            solarize_p: probability that a view is solarized.
        """
        if globals < 1 or locals < 0 or globals + locals < 2:
            raise InputError(
                f"plan.globals {globals} must be at least 1, plan.locals {locals} at least 0, and both together 2: one "
                "view alone has nothing to be near"
            )
        side = round(size * 98 / 224) if local_size is None else local_size
        look = Photometric(brightness, contrast, saturation, hue, grey_p=grey_p, blur_p=blur_p, solarize_p=solarize_p)
        slots = [Slot("global", size, scale, draw=2 * globals, keep=globals, photometric=look)]
        if locals:
            slots.append(Slot("local", side, local_scale, draw=2 * locals, keep=locals, target=False, photometric=look))
        return ViewPlan(tuple(slots))

    def forward(
        self, views: list[Tensor], targets: TargetEncoding | None = None, masks: Tensor | None = None
    ) -> LeJEPAEncoding:
        return LeJEPAEncoding(encode(self.backbone, self.projector, views))

    @outside_autocast
    def costs(self, encoding: LeJEPAEncoding) -> Costs:
        """The mean squared distance of the kept views to the centre of the global ones, as a sum over pairs.

        With d(a, b) the mean of (z_a - z_b)² over dimensions, and global views g and h::

            sum over g of d(g, c) = 1/(2T) · sum over g, h of d(g, h)
            d(v, c) = 1/T · sum over g of d(g, v) - 1/(2T²) · sum over g, h of d(g, h)

        So the mean over the K kept views weighs a pair of a global and a local view by 1/(KT), and an ordered pair of
        two global views by 1/(KT) - 1/(2T²) = (1 - K/(2T))/(KT). ``Costs.total`` divides by T·(K - 1), so that terms
        here are (K - 1)/K · d, and those between global views (1 - K/(2T)) times that.

        With 2 + 6 views that factor is -1: local views far from the global ones cost more, and global views far from
        each other cost less. Of global views as far from the local ones, those that agree are kept.
        """
        plan, projection = self.plan, full_precision(encoding.projection)
        targets = plan.targets_of(len(projection))
        cross = (1 - self.weight) * (1 - 1 / plan.keep) * squared_distances(projection, targets)
        between = 1 - plan.keep / (2 * plan.kept_targets)
        return Costs(torch.cat([between * cross[:, :targets], cross[:, targets:]], dim=1))

    @outside_autocast
    def loss(self, encoding: LeJEPAEncoding) -> Tensor:
        """The mean total of ``costs``, plus λ times SIGReg of every kept view, averaged over views. The directions are
        those of the step, in every process and every run."""
        projection = full_precision(encoding.projection)
        drawn = stream(0, "directions", self.progress.step)
        directions = torch.randn(projection.shape[-1], self.directions, generator=drawn)
        (directions,) = to_device([directions], projection.device)
        return super().loss(encoding) + self.weight * sigreg(projection, directions.to(projection.dtype))

    def statistics(self, encoding: LeJEPAEncoding) -> dict[str, Tensor]:
        return {"feature_std": feature_std(encoding.projection)}


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Sketched isotropic Gaussian regularisation: how far the images' embeddings are from a standard normal
    distribution along random directions; scalar, differentiable.

    The Epps-Pulley statistic of N numbers x: N times the integral over t of ``|mean exp(i t x) - exp(-t²/2)|²``,
    weighted by ``exp(-t²/2)``. It is averaged over directions and views. The images are those of all processes.

    Args:
        embeddings: ``[V, B, D]`` of this process's images.
        directions: ``[D, M]``, of any length.
    """
    unit = directions / torch.linalg.vector_norm(directions, dim=0)
    t = torch.linspace(0, REACH, KNOTS, dtype=embeddings.dtype, device=embeddings.device)
    angle = (embeddings @ unit)[..., None] * t  # [V, B, M, knots]
    found = torch.stack([angle.cos().mean(1), angle.sin().mean(1)])  # [2, V, M, knots]
    images = embeddings.shape[1]
    processes = place()[1]
    if processes > 1:
        # Sums the gradient over processes too: DDP, which averages it, then gives that of the whole batch.
        found = all_reduce(found) / processes  # type: ignore[no-untyped-call]
        images *= processes
    normal = (-t.square() / 2).exp()
    distance = (found[0] - normal).square() + found[1].square()
    return images * 2 * torch.trapezoid(distance * normal, dx=REACH / (KNOTS - 1)).mean()
