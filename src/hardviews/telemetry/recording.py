"""Records what selection does to a fixed set of images through a run, without any extra forward.

``docs/telemetry.md`` describes the files. N rows, V candidates, K kept views, C combinations.
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
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.shown import Channels, picture
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream

# If a plan allows at most this many combinations, all costs are recorded: pairs of up to 16 views, 4 global crops.
MOST_COMBINATIONS = 128
SAMPLED = 32  # otherwise, this many random combinations, fixed for the run


@dataclass(frozen=True)
class _Noted:
    """Part of a step: numbers of its n followed images on the CPU, tensors of all its B images on the device."""

    step: int
    index: Tensor  # [n]
    size: Tensor  # [n, 2]
    rows: Tensor  # positions of the n among the B
    views: Views  # of the n
    ids: Tensor  # [K, B]
    scored: bool
    costs: Costs | None


class Recorder:
    """Records what steps do with the followed images, and writes one file per epoch.

    ``note`` waits for nothing, ``fetch`` copies from the device, and ``write`` writes the epoch's rows so far. Writing
    precedes every checkpoint, and ``resume`` drops rows written after it, so a resumed run has every row once. Each
    process writes its own files; their number may change. Rows that can't be written are lost; this is reported once,
    and the run continues.

    Args:
        folder: created on first write.
        plan: the plan that the views are drawn from.
        followed: which images.
        process, processes: rank and number of processes.
        say: prints an error.
        shown: the channels that thumbnails show.
    """

    def __init__(
        self,
        folder: Path,
        plan: ViewPlan,
        followed: Followed,
        process: int = 0,
        processes: int = 1,
        say: Callable[[str], None] = print,
        shown: Channels = (0, 1, 2),
    ) -> None:
        self.folder, self.plan, self.followed, self.shown = folder, plan, followed, shown
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
        self._pictures: dict[int, Tensor] = {}  # by index, as stored, not shrunk yet
        self._form = RGB  # of these
        self._small: dict[int, bytes] = {}  # shrunk to thumbnails, not written yet
        self._epoch: list[Rows] = []
        self._newest: dict[int, tuple[list[list[float]], list[int]]] = {}  # of the gallery, latest: boxes and kept ids

    def note(self, step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        """Called by steps as ``observe``."""
        if not self.followed.count:
            return  # a stream's images have other indices
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
                self._form = images.form
                self._pictures[image] = images.image(row).clone()  # a clone, or the entire batch would stay in memory

    def fetch(self) -> None:
        """Copies noted tensors to the CPU; waits for the device."""
        for image, pixels in self._pictures.items():
            self._small[image] = gallery.thumbnail(picture(pixels, self._form, self.shown))
        self._pictures.clear()
        noted, self._noted = self._noted, []
        for known in (True, False):
            together = [note for note in noted if (note.costs is not None) == known]
            if together:
                self._epoch.append(self._rows(together))

    def _rows(self, noted: list[_Noted]) -> Rows:
        """The rows of steps that either all have candidates' costs or all lack them."""

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
            **({} if noted[0].views.tone is None else {"tone": drawn("tone")}),
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
        """Costs of the kept combination, the mean, and the listed combinations; NaN, and rank -1, if unknown."""
        n = kept.shape[1]
        unknown, rank = torch.full((n,), torch.nan), torch.full((n,), -1, dtype=torch.int32)
        if costs is None:
            listed = torch.full((n, len(self._combos)), torch.nan)
            return {"cost": unknown, "cost_mean": unknown, "rank": rank, "combination_cost": listed}
        cost, mean = costs.total(kept), mean_total(costs, self.plan)
        listed = totals(costs, self._combos)  # [C, n]
        if len(listed) == combinations_of(self.plan):
            own = (self._combos[:, :, None] == kept).all(1).byte().argmax(0, keepdim=True)  # the kept one's index
            rank = (listed > listed.gather(0, own)).sum(0).int()
        elif self.followed.policy == "hardest":
            rank = torch.zeros_like(rank)  # nothing is harder than the exact maximum
        rank = torch.where(cost.isfinite(), rank, -1)
        return {"cost": cost.float(), "cost_mean": mean.float(), "rank": rank, "combination_cost": listed.T.float()}

    def write(self, *, ended: bool) -> None:
        """Writes the epoch's rows so far, and new thumbnails.

        Args:
            ended: whether the epoch has ended.
        """
        rows = files.concatenated(self._epoch)
        if ended:
            self._epoch = []
        try:
            if rows:
                self.folder.mkdir(parents=True, exist_ok=True)
                if self.process == 0:
                    self._replace(self.folder / "about.json", (json.dumps(self.about(), indent=2) + "\n").encode())
                file = files.path_of(self.folder, int(rows["epoch"][0]), self.process)
                self._replace(file, files.compressed(rows | self._constant()))
            for image, small in list(self._small.items()):
                self._picture(image).parent.mkdir(exist_ok=True)
                self._replace(self._picture(image), small)
                del self._small[image]
        except OSError as error:
            self._say_once(error)

    def resume(self, step: int) -> None:
        """Resumes a run before ``step``: drops rows of later steps and continues the current epoch."""
        epoch = step // self.followed.steps_per_epoch
        self._noted, self._epoch = [], []
        for file_epoch, process, file in files.list_files(self.folder):
            # The files of processes that no longer exist are divided among the others.
            if file_epoch < epoch or process % self.processes != self.process:
                continue
            try:
                rows = self._before(file, step) if file_epoch == epoch else {}
                if rows and process == self.process:
                    self._epoch = [rows]
                elif rows:
                    self._replace(file, files.compressed(rows))
                else:
                    file.unlink()
            except OSError as error:
                self._say_once(error)

    def _before(self, file: Path, step: int) -> Rows:
        """The rows of earlier steps in a file."""
        rows = files.load(file)
        if not np.array_equal(rows["combinations"], self._combos):
            raise OSError(f"{file.name} was written by another version of hardviews")
        return files.rows_before(rows, step)

    def sheet(self) -> NDArray[np.uint8] | None:
        """The gallery's latest pictures with the candidates' boxes, uint8 ``[h, w, 3]``; None if there are none yet."""
        shown = []
        for image in self.gallery:
            if image in self._newest and gallery.exists(self._picture(image)):
                try:
                    with Image.open(self._picture(image), formats=["PNG"]) as small:
                        shown.append(gallery.with_boxes(small, *self._newest[image]))
                except OSError as error:
                    self._say_once(error)
        return gallery.sheet(shown) if shown else None

    def about(self) -> dict[str, object]:
        """Everything needed to understand the files and to render their views again."""
        return {
            "format": FORMAT,
            **asdict(self.followed),
            "gallery": self.gallery,
            "shown": self.shown,
            "plan": asdict(self.plan.without_transforms()),
        }

    def _picture(self, image: int) -> Path:
        return self.folder / "gallery" / f"{image}.png"

    def _constant(self) -> Rows:
        return {"slot": np.array(self.plan.slot_of(), np.uint8), "combinations": self._combos.short().numpy()}

    def _replace(self, file: Path, content: bytes) -> None:
        files.replace(file, content, self.process)

    def _say_once(self, error: OSError) -> None:
        if not self._said:
            self._say(f"telemetry: {self.folder}: {error.strerror or error}; rows are lost, training continues")
        self._said = True


def _costs_of(noted: Sequence[_Noted]) -> Costs | None:
    """Costs of the followed images, on the CPU; None if unknown."""
    costs = [note.costs for note in noted if note.costs is not None]
    own = [cost.own for cost in costs if cost.own is not None]
    return (
        Costs(_picked([cost.cross for cost in costs], noted), _picked(own, noted) if own else None) if costs else None
    )


def _picked(tensors: Sequence[Tensor], noted: Sequence[_Noted]) -> Tensor:
    """The followed images' rows of each ``[..., B]``, concatenated, on the CPU, in a single copy."""
    starts = accumulate((tensor.shape[-1] for tensor in tensors[:-1]), initial=0)
    index = torch.cat([note.rows + start for note, start in zip(noted, starts, strict=True)])
    joined = torch.cat(list(tensors), -1)
    return joined.index_select(-1, index.to(joined.device)).cpu()
