"""Loss terms per image and their total for a choice of views: one formula for selection and training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardviews.errors import InputError, RunError

NOT_FINITE = (
    "a candidate view's cost is not finite, so no view can be chosen; "
    "training has probably diverged: lower the learning rate or raise the precision"
)


@dataclass(frozen=True)
class Costs:
    """The cost of every view of every image: unnormalised, each term already multiplied by its weight.

    ``T`` target views come first among the ``V`` candidates: target t is candidate t.

    Args:
        cross: ``[T, V, B]``, the loss of predicting target view t from view v. The diagonal ``cross[t, t]`` is ignored
            and must be finite. Terms between two targets are ``cross[:, :T]``: a method that weighs them otherwise
            than the rest (LeJEPA) multiplies that part.
        own: ``[T, B]``, a target view's own cost (iBOT's masked patches), or None.
        reference: costs of the same views by another model, such as the momentum teacher; only the policy ``learnable``
            reads them.

    Raises:
        InputError: the shapes or dtypes are others.
    """

    cross: Tensor
    own: Tensor | None = None
    reference: "Costs | None" = None

    def __post_init__(self) -> None:
        cross, own = self.cross, self.own
        if cross.ndim != 3 or not 0 < cross.shape[0] <= cross.shape[1]:
            raise InputError(f"costs: cross is [T, V, B] with T target views of V views, not {list(cross.shape)}")
        if own is not None and own.shape != (cross.shape[0], cross.shape[2]):
            raise InputError(f"costs: own is [T, B] = {[cross.shape[0], cross.shape[2]]}, not {list(own.shape)}")
        if not cross.is_floating_point() or (own is not None and not own.is_floating_point()):
            raise InputError("costs are floating-point numbers, not integers or booleans")

    def total(self, ids: Tensor) -> Tensor:
        """The loss of a choice, ``[B]``.

        With K_T targets among the K kept views: (sum of ``cross[t, v]`` over kept t and kept v != t + (K - 1) · sum of
        ``own[t]`` over kept t) / (K_T · (K - 1)). That is the mean cross term plus the mean own term; dividing once, at
        the end, keeps sums of integer costs exact.

        Args:
            ids: int64 ``[K, B]``, the kept candidates of every image, without repeats; K_T is the same for all images.
        """
        targets, views, batch = self.cross.shape
        kept = torch.zeros(views, batch, dtype=torch.bool, device=self.cross.device).scatter_(0, ids, True)
        kept_targets = kept[:targets]
        term = kept_targets[:, None] & kept[None]  # [T, V, B]
        term.diagonal(dim1=0, dim2=1).fill_(False)
        total = torch.where(term, self.cross, 0).sum((0, 1))
        others = max(ids.shape[0] - 1, 1)
        if self.own is not None:
            total = total + others * torch.where(kept_targets, self.own, 0).sum(0)
        return total / (kept_targets.sum(0) * others)

    def all_ids(self) -> Tensor:
        """The choice of all views, int64 ``[V, B]``: ``total(all_ids())`` is the loss of training, where V = K."""
        views, batch = self.cross.shape[1:]
        return torch.arange(views, device=self.cross.device)[:, None].expand(views, batch)

    def upcast(self) -> "Costs":
        """These costs in float32 or better: sums in half precision would create ties."""
        if self.cross.dtype.itemsize >= 4 and (self.own is None or self.own.dtype.itemsize >= 4):
            return self
        return Costs(self.cross.float(), None if self.own is None else self.own.float(), self.reference)

    def finite(self) -> Tensor:
        """Whether every cost is finite: a 0-d boolean on the costs' device, computed without waiting for it."""
        finite = self.cross.isfinite().all()
        return finite if self.own is None else finite & self.own.isfinite().all()

    def check(self) -> None:
        """Raises RunError if a cost is not finite. Waits for the device, which ``HardViews`` avoids."""
        if not self.finite():
            raise RunError(NOT_FINITE)
