"""Renders and scores the candidates of a batch, with the savings that ``Scoring`` asks for."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.methods.base import E, Method, TargetEncoding
from hardviews.selection.costs import Costs
from hardviews.selection.policies import Reference
from hardviews.selection.scoring import Scoring
from hardviews.training.scoring.average import Average
from hardviews.training.scoring.early_exit import EarlyExit
from hardviews.training.scoring.replay import Replay
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
        reference: also costs by the momentum teacher alone, or by a moving average of the method with this momentum, as
            the costs' ``reference``.

    Raises:
        InputError: the method does not support this way of scoring.
    """

    def __init__(
        self, fabric: Fabric, method: Method[Any], scoring: Scoring, reference: Reference | None = None
    ) -> None:
        self.fabric, self.method, self.scoring, self.reference = fabric, method, scoring, reference
        self.replay = Replay(method.backbone, method.plan)
        if reference == "teacher" and type(method).teacher_costs is Method.teacher_costs:
            raise InputError(
                f"policy learnable compares with a momentum teacher, and {type(method).__name__} has none; "
                "give learnable(0.99), which compares with a moving average of the weights, or a method with a teacher"
            )
        if reference is not None and scoring.network != "student":
            raise InputError("policy learnable compares the student with the teacher; give --score-network student")
        norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
        if scoring.chunk and norms:
            raise InputError("score-chunk: this network has BN, which would use the statistics of a chunk; give 0")
        if scoring.chunk and method.needs_whole_batch and (scoring.network != "student" or reference == "teacher"):
            raise InputError(
                f"score-chunk: the teacher of {type(method).__name__} compares the images of a batch, and a chunk "
                "would leave it fewer; give 0"
            )
        if scoring.network != "student" and type(method).teacher_costs is Method.teacher_costs:
            raise InputError(f"score-network: {type(method).__name__} has no teacher; give student")
        if scoring.token_keep < 1:
            if any(slot.mask for slot in method.plan.slots):
                raise InputError(f"score-token-keep: {type(method).__name__} compares all patches; give 1")
            if not list(_vits(method)):
                raise InputError("score-token-keep: this backbone has no patches to leave out; give 1")
        if scoring.depth < 1 and any(slot.mask for slot in method.plan.slots):
            raise InputError(f"score-depth: {type(method).__name__} compares patches of the last block; give 1")
        self.exit = EarlyExit(method, scoring.depth) if scoring.depth < 1 else None
        self.average = Average(method, reference) if isinstance(reference, float) else None
        if self.average is not None and (scoring.depth, scoring.token_keep) != (1, 1):
            raise InputError(
                f"policy learnable({reference}) compares whole networks; give --score-depth 1 and --score-token-keep 1"
            )

    def candidates(self, images: ImageBatch, views: Views, resolution: float = 1.0) -> list[Tensor]:
        """The V candidates; unscored ones have no pixels: ``[B, 0]``.

        Args:
            images: B images.
            views: V of each.
            resolution: of training, at a fraction of which candidates are scored.
        """
        plan, rest = self.method.plan, 0
        if self.scoring.network == "teacher_targets":
            scored = torch.arange(plan.targets, device=views.device)[:, None].expand(-1, len(images))
            views, rest = views.take(scored, plan.slot_of()[: plan.targets]), plan.draw - plan.targets
        rendered = render(images, views, plan, resolution * self.scoring.resolution)
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
        # Smaller pictures, fewer patches or a part of the backbone give other encodings than training needs.
        exact = (self.scoring.resolution, self.scoring.token_keep, self.scoring.depth) == (1, 1, 1)
        reuse = self.scoring.reuse and exact
        hidden = itertools.repeat(None) if masks is None else iter(torch.split(masks, size, dim=1))
        early = self.exit.exiting() if self.exit else nullcontext()
        with self.fabric.autocast(), patches_left_out(self.method, 1 - self.scoring.token_keep, seed), early:
            if self.scoring.network == "student":
                with self.replay.recorded() if self.scoring.once else nullcontext():
                    encoding = joined([self.method(chunk, masks=next(hidden)) for chunk in chunks])
                costs, targets = self.method.costs(encoding), self.method.reusable(encoding)
                if self.reference is not None:
                    hidden = itertools.repeat(None) if masks is None else iter(torch.split(masks, size, dim=1))
                    costs = replace(costs, reference=self._reference_costs(chunks, hidden))
            else:
                parts = [
                    self.method.teacher_costs([v for v in chunk if v.numel()], next(hidden), reuse) for chunk in chunks
                ]
                costs, targets = self._join_chunks(parts)
        return costs if targets is None or not reuse else (costs, targets)

    def learning(self) -> AbstractContextManager[None]:
        """Context of a training forward, from which an early exit learns."""
        return self.exit.listening() if self.exit else nullcontext()

    def learn(self) -> None:
        """Learns from the training forwards of a step."""
        if self.exit:
            self.exit.learn(self.fabric)

    def follow(self) -> None:
        """Moves the average of the weights, after the optimizer's step. The first call copies them."""
        if self.average:
            self.average.follow(self.method)

    def _reference_costs(self, chunks: list[list[Tensor]], hidden: Iterator[Tensor | None]) -> Costs:
        if self.average is None:
            parts = [self.method.teacher_costs(chunk, next(hidden), False) for chunk in chunks]
            return self._join_chunks(parts)[0]
        self.average.begin(self.method)
        average = self.average.method
        average.progress = self.method.progress
        costs: Costs = average.costs(joined([average(chunk, masks=next(hidden)) for chunk in chunks]))
        return costs

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
