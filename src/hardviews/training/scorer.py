"""Renders and scores the candidates of a batch, with the savings that ``Scoring`` asks for."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import E, Method, TargetEncoding
from hardviews.selection.costs import Costs
from hardviews.selection.scoring import Scoring
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.render import render


class Scorer:
    """Computes the candidates' costs with a method's current weights.

    Call it as ``HardViews`` calls a score function: without gradient and under ``untouched``.

    Args:
        fabric: sets the precision.
        method: called unwrapped.
        scoring: the savings.
        teacher_too: also costs by the momentum teacher alone, as the costs' ``reference``.

    Raises:
        InputError: the method does not support this way of scoring.
    """

    def __init__(self, fabric: Fabric, method: Method[Any], scoring: Scoring, teacher_too: bool = False) -> None:
        self.fabric, self.method, self.scoring, self.teacher_too = fabric, method, scoring, teacher_too
        if teacher_too and type(method).teacher_costs is Method.teacher_costs:
            raise InputError(
                f"policy learnable compares with a momentum teacher, and {type(method).__name__} has none; "
                "take another policy, or byol, dino or ibot"
            )
        if teacher_too and scoring.network != "student":
            raise InputError("policy learnable compares the student with the teacher; give --score-network student")
        norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
        if scoring.chunk and norms:
            raise InputError("score-chunk: this network has BN, which would use the statistics of a chunk; give 0")
        if scoring.network != "student" and type(method).teacher_costs is Method.teacher_costs:
            raise InputError(f"score-network: {type(method).__name__} has no teacher; give student")
        if scoring.token_keep < 1:
            if any(slot.mask for slot in method.plan.slots):
                raise InputError(f"score-token-keep: {type(method).__name__} compares all patches; give 1")
            if not list(_vits(method)):
                raise InputError("score-token-keep: this backbone has no patches to leave out; give 1")

    def candidates(self, images: ImageBatch, views: Views) -> list[Tensor]:
        """The V candidates; unscored ones have no pixels: ``[B, 0]``."""
        plan, rest = self.method.plan, 0
        if self.scoring.network == "teacher_targets":
            scored = torch.arange(plan.targets, device=views.device)[:, None].expand(-1, len(images))
            views, rest = views.take(scored, plan.slot_of()[: plan.targets]), plan.draw - plan.targets
        rendered = render(images, views, plan, self.scoring.resolution)
        return rendered + [rendered[0].new_empty(len(images), 0)] * rest

    def __call__(self, candidates: list[Tensor], masks: Tensor | None, seed: int) -> Costs | tuple[Costs, Any]:
        """Costs, and encodings that training may reuse.

        Args:
            candidates: from ``candidates``.
            masks: of the target views, as drawn.
            seed: of the patches that are left out at random.
        """
        size = self.scoring.chunk or candidates[0].shape[0]
        chunks = [list(chunk) for chunk in zip(*(torch.split(view, size) for view in candidates), strict=True)]
        # Smaller pictures or fewer patches give other encodings of the targets than training needs.
        reuse = self.scoring.reuse and self.scoring.resolution == 1 and self.scoring.token_keep == 1
        hidden = itertools.repeat(None) if masks is None else iter(torch.split(masks, size, dim=1))
        with self.fabric.autocast(), patches_left_out(self.method, 1 - self.scoring.token_keep, seed):
            if self.scoring.network == "student":
                encoding = joined([self.method(chunk, masks=next(hidden)) for chunk in chunks])
                costs, targets = self.method.costs(encoding), self.method.reusable(encoding)
                if self.teacher_too:
                    hidden = itertools.repeat(None) if masks is None else iter(torch.split(masks, size, dim=1))
                    parts = [self.method.teacher_costs(chunk, next(hidden), False) for chunk in chunks]
                    costs = replace(costs, reference=self._join_chunks(parts)[0])
            else:
                parts = [
                    self.method.teacher_costs([v for v in chunk if v.numel()], next(hidden), reuse) for chunk in chunks
                ]
                costs, targets = self._join_chunks(parts)
        return costs if targets is None or not reuse else (costs, targets)

    def _join_chunks(self, parts: list[tuple[Costs, TargetEncoding | None]]) -> tuple[Costs, TargetEncoding | None]:
        """Joins the chunks' costs; unscored views get no terms."""
        cross = torch.cat([costs.cross for costs, _ in parts], dim=2)
        unscored = cross.new_zeros(cross.shape[0], self.method.plan.draw - cross.shape[1], cross.shape[2])
        known = [targets.fields for _, targets in parts if targets is not None]
        fields = tuple(torch.cat(field, dim=1) for field in zip(*known, strict=True))
        return Costs(torch.cat([cross, unscored], dim=1)), TargetEncoding(fields) if known else None


def joined(encodings: list[E]) -> E:
    """Joins encodings of parts of a batch."""
    if len(encodings) == 1:
        return encodings[0]
    fields = zip(encodings[0]._fields, zip(*encodings, strict=True), strict=True)
    return encodings[0]._replace(**{name: torch.cat(parts, dim=1) for name, parts in fields})


@contextmanager
def patches_left_out(method: nn.Module, part: float, seed: int) -> Iterator[None]:
    """Context in which every ViT of a method drops a random part of each image's patches, by timm's own layer.

    Seeds the global generators, which ``untouched`` restores.
    """
    vits = list(_vits(method)) if part else []
    before = [vit.patch_drop for vit in vits]
    if part:
        torch.manual_seed(seed)
    for vit in vits:
        vit.patch_drop = PatchDropout(part, num_prefix_tokens=int(vit.num_prefix_tokens))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for vit, dropout in zip(vits, before, strict=True):
            vit.patch_drop = dropout


def _vits(method: nn.Module) -> Iterator[nn.Module]:
    """The timm ViTs that support this layer; others, such as Eva, also need the indices."""
    return (m for m in method.modules() if isinstance(getattr(m, "patch_drop", None), nn.Identity | PatchDropout))
