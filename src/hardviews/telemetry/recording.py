"""What hard views did, image by image: the same images are followed through a run, without any forward of their own.

What is written is described in ``docs/telemetry.md``. Legend: N rows, V candidates, K kept views, C combinations.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import Choice
from hardviews.selection.search import combinations_of, every_combination, mean_total, random_ids, totals
from hardviews.telemetry import files, gallery
from hardviews.telemetry.files import FORMAT, Rows
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream

# The cost of every combination is written where the plan allows no more: pairs of up to 16 views, four of global crops.
MOST_COMBINATIONS = 128
SAMPLED = 32  # so many are, drawn at random once for the run, where it allows more


@dataclass(frozen=True)
class Followed:
    """What a run follows.

    Args:
        images: in the data set.
        count: how many of them are followed; a smaller number is a part of a larger one.
        gallery: of how many of these small pictures are kept.
        seed: of the run, by which they are picked.
        policy: the run's.
        every: chosen is at every so-many-th step.
        steps_per_epoch: a file is an epoch.
        selecting: chosen is from the first of these steps until before the second; None for all.
    """

    images: int
    count: int
    gallery: int
    seed: int
    policy: str
    every: int
    steps_per_epoch: int
    selecting: tuple[int, int] | None = None

    def chosen(self, step: Tensor) -> Tensor:
        """Whether views are chosen at these steps."""
        chosen = step % self.every == 0
        if self.selecting is None:
            return chosen
        return chosen & (step >= self.selecting[0]) & (step < self.selecting[1])

    def indices(self) -> Tensor:
        """The images that are followed, those of the gallery first."""
        return torch.randperm(self.images, generator=stream(self.seed, "telemetry"))[: self.count]


@dataclass(frozen=True)
class _Noted:
    """A part of a step: numbers of the n followed images are here, of all its B images on the device."""

    step: int
    index: Tensor  # [n]
    size: Tensor  # [n, 2]
    rows: Tensor  # [n], their places among the B
    views: Views  # of the n
    ids: Tensor  # [K, B]
    scored: bool
    costs: Costs | None


class Recorder:
    """Notes what steps do with the followed images, and writes it down, an epoch a file.

    ``note`` waits for nothing; ``fetch`` brings here what is on the device; ``write`` puts the epoch so far into its
    file. It is written before every checkpoint, and ``resume`` drops what was written after it: so a run that goes on
    has every row once, with any number of processes, each of which writes files of its own. What can't be written is
    lost, which is said once, and stops nothing.

    Args:
        folder: made when there is something to write.
        plan: of what is drawn.
        followed: which images.
        process, processes: which of how many.
        say: told what went wrong.
    """

    def __init__(
        self,
        folder: Path,
        plan: ViewPlan,
        followed: Followed,
        process: int = 0,
        processes: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.plan, self.followed = folder, plan, followed
        self.process, self.processes, self._say, self._said = process, processes, say, False
        indices = followed.indices()
        self._is_followed = torch.zeros(followed.images, dtype=torch.bool)
        self._is_followed[indices] = True
        self.gallery: list[int] = indices[: followed.gallery].tolist()
        self._shown = frozenset(self.gallery)
        self._missing = {index for index in self.gallery if not gallery.exists(self._picture(index))}
        every = every_combination(plan, MOST_COMBINATIONS)
        sample = random_ids(plan, SAMPLED, stream(followed.seed, "combinations")).T
        self._combos = sample if every is None else every
        self._noted: list[_Noted] = []
        self._pictures: dict[int, Tensor] = {}  # as they came by
        self._small: dict[int, bytes] = {}  # these, shrunk, not written yet
        self._epoch: list[Rows] = []
        self._newest: dict[int, tuple[list[list[float]], list[int]]] = {}  # of the gallery: boxes and kept ids

    def note(self, step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        """To be shown to steps as ``observe``."""
        if not self.followed.count:
            return  # images of a stream have numbers of another kind
        rows = self._is_followed[images.index].nonzero()[:, 0]
        if not len(rows):
            return
        index = images.index[rows]
        self._noted.append(
            _Noted(
                step,
                index,
                images.size[rows],
                rows,
                candidates[rows],
                choice.ids,
                choice.kept is not None,
                choice.costs,
            )
        )
        for row, image in zip(rows.tolist(), index.tolist(), strict=True):
            if image in self._missing:
                self._missing.remove(image)
                self._pictures[image] = images.image(row).clone()  # the batch itself would be kept alive whole

    def fetch(self) -> None:
        """Brings here what was noted; waits for the device."""
        self._small |= {image: gallery.thumbnail(pixels) for image, pixels in self._pictures.items()}
        self._pictures.clear()
        noted, self._noted = self._noted, []
        for known in (True, False):
            together = [note for note in noted if (note.costs is not None) == known]
            if together:
                self._epoch.append(self._rows(together))

    def _rows(self, noted: list[_Noted]) -> Rows:
        """The rows of steps that all know what their candidates cost, or none of them."""

        def drawn(name: str) -> Tensor:
            return torch.cat([getattr(note.views, name) for note in noted], 1).transpose(0, 1)

        kept = _picked([note.ids for note in noted], noted)
        index = torch.cat([note.index for note in noted])
        counts = torch.tensor([len(note.rows) for note in noted])
        step = torch.tensor([note.step for note in noted], dtype=torch.int32).repeat_interleave(counts)
        boxes = drawn("box")
        rows: dict[str, Tensor] = {
            "epoch": step // self.followed.steps_per_epoch,
            "step": step,
            "image": index,
            "size": torch.cat([note.size for note in noted]).int(),
            "box": boxes.float(),
            **{name: drawn(name) for name in ("flip", "jitter", "grey", "blur", "solarize")},
            "order": drawn("order").byte(),
            "masked": torch.zeros(boxes.shape[:2])
            if noted[0].views.mask is None
            else drawn("mask").float().mean((2, 3)),
            "chosen": self.followed.chosen(step) & self.plan.selects,
            "scored": torch.tensor([note.scored for note in noted]).repeat_interleave(counts),
            "kept": kept.T.short(),
        } | self._costs(kept, _costs_of(noted))
        for row, image in enumerate(index.tolist()):
            if image in self._shown:
                self._newest[image] = (boxes[row].tolist(), kept[:, row].tolist())
        return {name: numbers.numpy() for name, numbers in rows.items()}

    def _costs(self, kept: Tensor, costs: Costs | None) -> dict[str, Tensor]:
        """What the kept combination, all on average, and the listed ones cost; NaN, and rank -1, where that is not
        known."""
        n = kept.shape[1]
        unknown, rank = torch.full((n,), torch.nan), torch.full((n,), -1, dtype=torch.int32)
        if costs is None:
            listed = torch.full((n, len(self._combos)), torch.nan)
            return {"cost": unknown, "cost_mean": unknown, "rank": rank, "combination_cost": listed}
        cost, mean = costs.total(kept), mean_total(costs, self.plan)
        listed = totals(costs, self._combos)  # [C, n]
        if len(listed) == combinations_of(self.plan):
            own = (self._combos[:, :, None] == kept).all(1).byte().argmax(0, keepdim=True)  # the kept one's number
            rank = (listed > listed.gather(0, own)).sum(0).int()
        elif self.followed.policy == "hardest":
            rank = torch.zeros_like(rank)  # nothing is harder than what was found exactly
        rank = torch.where(cost.isfinite(), rank, -1)
        return {"cost": cost.float(), "cost_mean": mean.float(), "rank": rank, "combination_cost": listed.T.float()}

    def write(self, *, ended: bool) -> None:
        """Writes the epoch so far, and the pictures that are new.

        Args:
            ended: whether the next rows are of another epoch.
        """
        rows = files.together(self._epoch)
        if ended:
            self._epoch = []
        try:
            if rows:
                self.folder.mkdir(parents=True, exist_ok=True)
                if self.process == 0:
                    self._replace(self.folder / "about.json", (json.dumps(self.about(), indent=2) + "\n").encode())
                file = files.path_of(self.folder, int(rows["epoch"][0]), self.process)
                self._replace(file, files.packed(rows | self._constant()))
            for image, picture in list(self._small.items()):
                self._picture(image).parent.mkdir(exist_ok=True)
                self._replace(self._picture(image), picture)
                del self._small[image]
        except OSError as error:
            self._say_once(error)

    def resume(self, step: int) -> None:
        """Takes up a run before ``step``: drops what is written of later steps, goes on with the epoch it is in."""
        epoch = step // self.followed.steps_per_epoch
        self._noted, self._epoch = [], []
        for written, process, file in files.written(self.folder):
            # Those of processes that are no more are shared out.
            if written < epoch or process % self.processes != self.process:
                continue
            try:
                rows = self._before(file, step) if written == epoch else {}
                if rows and process == self.process:
                    self._epoch = [rows]
                elif rows:
                    self._replace(file, files.packed(rows))
                else:
                    file.unlink()
            except OSError as error:
                self._say_once(error)

    def _before(self, file: Path, step: int) -> Rows:
        """The rows of a file that are of earlier steps."""
        rows = files.load(file)
        if not np.array_equal(rows["combinations"], self._combos):
            raise OSError(f"{file.name} was written by another version of hardviews")
        return files.before(rows, step)

    def sheet(self) -> NDArray[np.uint8] | None:
        """The gallery as it came by last, with the candidates' boxes, uint8 ``[h, w, 3]``; None: nothing came by."""
        shown = []
        for image in self.gallery:
            if image in self._newest and gallery.exists(self._picture(image)):
                try:
                    with Image.open(self._picture(image), formats=["PNG"]) as picture:
                        shown.append(gallery.with_boxes(picture, *self._newest[image]))
                except OSError as error:
                    self._say_once(error)
        return gallery.sheet(shown) if shown else None

    def about(self) -> dict[str, object]:
        """All that is needed to understand the files, and to render their views again."""
        return {
            "format": FORMAT,
            **asdict(self.followed),
            "gallery": self.gallery,
            "plan": asdict(self.plan),
        }

    def _picture(self, image: int) -> Path:
        return self.folder / "gallery" / f"{image}.png"

    def _constant(self) -> Rows:
        return {"slot": np.array(self.plan.slot_of(), np.uint8), "combinations": self._combos.short().numpy()}

    def _replace(self, file: Path, content: bytes) -> None:
        files.replace(file, content, self.process)

    def _say_once(self, error: OSError) -> None:
        if not self._said:
            self._say(f"telemetry: {self.folder}: {error.strerror or error}; training goes on without what is lost")
        self._said = True


def _costs_of(noted: Sequence[_Noted]) -> Costs | None:
    """Of the followed images, here; None where they are not known."""
    costs = [note.costs for note in noted if note.costs is not None]
    own = [cost.own for cost in costs if cost.own is not None]
    return (
        Costs(_picked([cost.cross for cost in costs], noted), _picked(own, noted) if own else None) if costs else None
    )


def _picked(tensors: Sequence[Tensor], noted: Sequence[_Noted]) -> Tensor:
    """The followed images' rows of each ``[..., B]``, one after the other, here; one copy however many there are."""
    starts = accumulate((tensor.shape[-1] for tensor in tensors[:-1]), initial=0)
    index = torch.cat([note.rows + start for note, start in zip(noted, starts, strict=True)])
    whole = torch.cat(list(tensors), -1)
    return whole.index_select(-1, index.to(whole.device)).cpu()
