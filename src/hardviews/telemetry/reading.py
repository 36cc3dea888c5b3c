"""Reads a run's telemetry (``docs/telemetry.md``): all epochs of all processes, as arrays.

Legend: N rows, each an image at a step; V candidates, K kept views, T target views, C combinations.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardviews.errors import InputError
from hardviews.selection.search import combinations_of
from hardviews.telemetry.files import CONSTANT, FORMAT, Rows
from hardviews.telemetry.files import load as load_epoch
from hardviews.telemetry.shown import Channels
from hardviews.views.draw import Views
from hardviews.views.plan import Masking, Photometric, Slot, ViewPlan

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Telemetry:
    """Telemetry of a run.

    Args:
        plan: the plan that the views were drawn from.
        rows: arrays ``[N, ...]`` by name.
        combinations: ids ``[C, K]`` of the combinations with recorded costs, in the order of ``combination_cost``: all
            that the plan allows, or a random sample.
        gallery: index of an image → its thumbnail's file.
        shown: the channels that thumbnails show, counted from 0.
    """

    plan: ViewPlan
    rows: dict[str, Array]
    combinations: Array
    gallery: dict[int, Path]
    shown: Channels = (0, 1, 2)

    def __len__(self) -> int:
        """N."""
        return len(self.rows["step"])

    def __getitem__(self, name: str) -> Array:
        return self.rows[name]

    @property
    def exhaustive(self) -> bool:
        """Whether ``combinations`` has every combination that the plan allows."""
        return len(self.combinations) == combinations_of(self.plan)

    def where(self, rows: Array) -> Self:
        """Selects rows, by a mask ``[N]`` or by indices."""
        picked = {name: x[rows] for name, x in self.rows.items()}
        return replace(self, rows=picked)

    def epochs(self) -> Iterator[tuple[int, Self]]:
        """Every epoch with its rows."""
        for epoch in np.unique(self["epoch"]).tolist():
            yield epoch, self.where(self["epoch"] == epoch)

    def views(self) -> Views:
        """The drawn candidates ``[V, N, ...]``, without masks and tickets, to measure or render."""

        def turned(name: str) -> Tensor:
            return torch.from_numpy(self[name]).transpose(0, 1).contiguous()

        names = ("flip", "jitter", "grey", "blur", "solarize")
        return Views(
            slot=torch.tensor(self.plan.slot_of()), box=turned("box").double(), order=turned("order").long(),
            ticket=torch.zeros(self.plan.draw, len(self)), tone=turned("tone") if "tone" in self.rows else None,
            **{name: turned(name) for name in names},
        )  # fmt: skip

    def kept(self) -> Tensor:
        """Ids of the kept candidates, int64 ``[K, N]``."""
        return torch.from_numpy(self["kept"]).long().T


def load(run: Path | str) -> Telemetry:
    """Reads all telemetry of a run, rows in order of step and image.

    Raises:
        InputError: there is none, it is of another version, or a file is damaged.
    """
    folder = Path(run) / "telemetry"
    files = sorted(folder.glob("epoch-*.npz"))
    if not files:
        raise InputError(f"{run} has no telemetry: it was made with --telemetry 0, or has not finished an epoch yet")
    plan, images, shown = _about(folder / "about.json")
    parts = [_arrays(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        alike = _form(part) == _form(parts[0]) and all(np.array_equal(part[x], parts[0][x]) for x in CONSTANT)
        if not alike:
            raise InputError(f"{file} is damaged, or from another version of hardviews than {files[0].name}")
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in CONSTANT}
    order = np.lexsort((rows["image"], rows["step"]))
    gallery = {image: folder / "gallery" / f"{image}.png" for image in images}
    return Telemetry(
        plan,
        {name: x[order] for name, x in rows.items()},
        parts[0]["combinations"].astype(np.int64),
        {image: file for image, file in gallery.items() if file.is_file()},
        shown,
    )


def plan_of(written: dict[str, Any]) -> ViewPlan:
    """A plan from its JSON."""

    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    slots = []
    for slot in written["slots"]:
        mask = None if slot["mask"] is None else Masking(**slot["mask"])
        slots.append(Slot(**tuples(slot) | {"photometric": Photometric(**tuples(slot["photometric"])), "mask": mask}))
    return ViewPlan(**tuples(written) | {"slots": tuple(slots)})


def _about(file: Path) -> tuple[ViewPlan, list[int], Channels]:
    """The plan, the indices of the gallery's images, and the channels that these show."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{file}: telemetry from another version of hardviews")
    try:
        first, second, third = (int(channel) for channel in about.get("shown", (0, 1, 2)))
        return plan_of(about["plan"]), [int(image) for image in about["gallery"]], (first, second, third)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is damaged: it holds no plan and gallery") from error


def _form(arrays: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    """Shapes without the number of rows, of the arrays that all files of a run share."""
    return {name: x.shape if name in CONSTANT else x.shape[1:] for name, x in arrays.items()}


def _arrays(file: Path) -> Rows:
    try:
        return load_epoch(file)
    except OSError as error:
        raise InputError(f"{file.parent}: {error}") from error
