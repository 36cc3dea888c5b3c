"""The policy ``unexpected``: keeps the views that cost more than their parameters predict.

Legend: B images, V candidates, T targets; P pairs of a kind, D features of a pair.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.selection.pair_features import PIXELS, number_features, numbers_of, pixel_features, width, with_products
from hardviews.selection.search import Layout, hardest_ids, layout_of
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan

# What is left of the moments after a choice: they are about those of the last 10, or, if these have few pairs, of as
# many as have SEEN pairs for every feature. Early in training what costs much changes quickly: after 48 steps of SimCLR
# (shapes, one seed) 0.9 explained 0.74 of the costs' variance, 0.98 0.39.
FORGETTING = 0.9
SEEN = 4
RIDGE = 1e-2  # penalty on standardised features, as a part of the moments' weight


class Unexpected(nn.Module):
    """Keeps the combination of the largest total cost minus ``strength`` times what its views' numbers predict.

    A large cost has two parts. Strong augmentation costs much with every image: small overlap, strong colours, little
    left to see. The rest is hard for this image. ``strength`` 0 keeps the hardest, 1 takes all of the first part off.

    The prediction is a ridge regression on line, with one set of weights for each kind of pair: two views of one slot,
    or of two. What a pair adds to a total (``cross[t, v]``, and ``cross[v, t]`` if v is a target too) is predicted from
    its features with squares and products; a target's ``own`` cost from the pair of it and itself. Both are taken
    relative to their mean over the image's pairs of that kind, since every choice holds as many of each. So the search
    stays exact.

    The regression learns from the costs of all candidates of all processes, whose moments are summed by one
    all-reduce, and predicts the costs of the next step. Until it has seen enough, the hardest views are kept. Features
    are made of the views' numbers (``Views``), or of small pictures of the candidates if no numbers are given.

    ``moments`` and ``rows`` are all that it knows. Nothing waits for the device.

    Args:
        strength: part of the prediction that is taken off, 0 to 1.

    Raises:
        InputError: the strength is out of range.
    """

    needs_costs = True
    takes = ("allowed", "pixels")

    moments: Tensor
    rows: Tensor

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise InputError(f"unexpected({strength:g}): the strength is 0 (the hardest views) to 1")
        self.strength = strength
        self.__name__ = f"unexpected({strength:g})"
        # Of every kind the mean of features times features and times costs [D, D + 1], and how many pairs it is of.
        self.register_buffer("moments", torch.zeros(0, 0, 1))
        self.register_buffer("rows", torch.zeros(0))

    @torch.no_grad()
    def forward(
        self,
        costs: Costs | None,
        plan: ViewPlan,
        views: Views | None,
        generator: Generator,
        allowed: Tensor | None = None,
        pixels: list[Tensor] | None = None,
    ) -> Tensor:
        """The ids of the kept candidates, as of every policy.

        Args:
            pixels: the candidates, used if there are no ``views``.
        """
        if costs is None:
            raise InputError("this policy needs costs, and none were given")
        with torch.autocast(costs.cross.device.type, enabled=False):
            left = self._beyond_expected(costs, plan, views, pixels)
        return hardest_ids(left, plan, allowed)

    def _beyond_expected(self, costs: Costs, plan: ViewPlan, views: Views | None, pixels: list[Tensor] | None) -> Costs:
        kinds = kinds_of(layout_of(plan), costs.own is not None, costs.cross.device)
        if not kinds:  # one view is kept, and nothing is known of its cost
            return costs
        if views is None and pixels is None:
            raise InputError("unexpected needs the views' numbers or the candidates: pass either to choose()")
        self._prepare(len(kinds), width(PIXELS if views is None else numbers_of(views)), costs.cross.device)
        weights = self._weights()
        cross, own = costs.cross.clone(), None if costs.own is None else costs.own.clone()
        found = []
        for (a, b, mutual), weight in zip(kinds, weights, strict=True):
            if views is None:
                assert pixels is not None
                x = pixel_features(pixels, a, b)
            else:
                x = number_features(views, a, b)
            x = with_products(x)
            x = x - x.mean(0, keepdim=True)
            if mutual is None:
                assert costs.own is not None
                y = costs.own[a]
            else:
                y = costs.cross[a, b] + costs.cross[b, a] if mutual else costs.cross[a, b]
            y = (y - y.mean(0, keepdim=True)).float()
            found.append(x.flatten(0, 1).T @ torch.cat([x, y[..., None]], -1).flatten(0, 1))
            expected = self.strength * (x @ weight).to(cross.dtype)
            if mutual is None:
                assert own is not None
                own[a] -= expected
            elif mutual:
                cross[a, b] -= expected / 2
                cross[b, a] -= expected / 2
            else:
                cross[a, b] -= expected
        counts = [float(len(a) * costs.cross.shape[2]) for a, _, _ in kinds]
        self._learn(found, counts)
        return Costs(cross, own)

    def _prepare(self, kinds: int, features: int, device: torch.device) -> None:
        """Makes room at the first call, on the device of the costs. Later ones must be of the same kinds of pair."""
        shape = (kinds, features, features + 1)
        if self.moments.device != device:  # as loaded
            self.to(device)
        if not self.moments.numel():
            with torch.inference_mode(False):
                self.moments, self.rows = torch.zeros(shape, device=device), torch.zeros(kinds, device=device)
        elif self.moments.shape != shape:
            raise InputError(
                "unexpected has learned from other kinds of views; give each plan, and views with numbers and "
                "without, a policy of its own"
            )

    def _weights(self) -> Tensor:
        """Of the features of every kind, ``[kinds, D]``; zeros until as many pairs as features have been seen."""
        inner, outer = self.moments[..., :-1], self.moments[..., -1:]
        variance = inner.diagonal(dim1=1, dim2=2)
        scale = variance.clamp_min(1e-12).sqrt()
        # Standardised, so that the penalty is the same for all; features that never vary get weight 0.
        correlation = inner / (scale[:, :, None] * scale[:, None])
        ridge = RIDGE * torch.eye(inner.shape[1], device=inner.device)
        factor, failed = torch.linalg.cholesky_ex(correlation + ridge)  # which reads no error from the device
        solved = torch.cholesky_solve(outer / scale[..., None], factor)
        known = (self.rows >= inner.shape[1]) & (failed == 0)
        return torch.where(known[:, None], solved[..., 0] / scale, 0.0)

    def _learn(self, found: list[Tensor], counts: list[float]) -> None:
        """Adds the pairs of all processes to the moments, which are means, so that their size stays what it is."""
        device = self.rows.device
        rows = torch.stack([torch.full((), count, device=device) for count in counts])
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        enough = SEEN * self.moments.shape[1]
        left = [max(FORGETTING, 1 - processes * count / enough) for count in counts]
        packed = torch.cat([torch.stack(found).flatten(), rows])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(packed)
        sums, rows = packed[: -len(found)].view_as(self.moments), packed[-len(found) :]
        before = torch.stack([torch.full((), part, device=device) for part in left]) * self.rows
        total = before + rows
        mean = (self.moments * before[:, None, None] + sums) / total.clamp_min(1)[:, None, None]
        # A cost that is not finite would spoil all that follow.
        fine = packed.isfinite().all()
        self.moments.copy_(torch.where(fine, mean, self.moments))
        self.rows.copy_(torch.where(fine, total, self.rows))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes moments of any shape: those of a policy that has not chosen yet are empty."""
        for name in ("moments", "rows"):
            given = state_dict.get(prefix + name)
            if given is not None:
                setattr(self, name, torch.zeros_like(given, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


Kind = tuple[Tensor, Tensor, bool | None]  # candidates a and b [P] of its pairs; whether each predicts the other


@lru_cache(maxsize=32)
def kinds_of(layout: Layout, own: bool, device: torch.device) -> list[Kind]:
    """The kinds of pair that a choice may hold: a is a target; ``mutual`` is None for targets paired with themselves,
    which stand for their own costs."""
    slots, start = [], 0
    for draw, _, _ in layout:
        slots.append(range(start, start + draw))
        start += draw
    kinds: list[tuple[list[tuple[int, int]], bool | None]] = []
    for s, (_, keep, target) in enumerate(layout):
        if not target:
            continue
        if own:
            kinds.append(([(t, t) for t in slots[s]], None))
        if keep > 1:
            kinds.append(([(a, b) for a in slots[s] for b in slots[s] if a < b], True))
        others = range(s + 1, len(layout))
        kinds += [([(a, b) for a in slots[s] for b in slots[u]], layout[u][2]) for u in others]
    with torch.inference_mode(False):
        found = [(torch.tensor(pairs, dtype=torch.int64).T.to(device), mutual) for pairs, mutual in kinds]
    return [(ids[0], ids[1], mutual) for ids, mutual in found]
