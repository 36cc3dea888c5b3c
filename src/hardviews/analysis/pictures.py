"""The gallery: original pictures with the candidates' boxes, and the candidates, with the kept ones marked."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardviews.analysis.figure import number
from hardviews.analysis.statistics import by_image
from hardviews.selection.search import combinations_of
from hardviews.telemetry.reading import Telemetry
from hardviews.telemetry.shown import as_values, plan_shown, views_shown
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.render import render

SIDE = 192  # side of a candidate in pixels, unless the network gets it smaller
LARGER = 256  # longer side of an original
READ = 512  # longer side of an original that candidates are cut out of
MOMENTS = 3  # number of steps shown for every picture
PICTURES = 6
CANDIDATES = 120  # in all, at most about 8 KB each
EXTREMES = 8  # number of easiest and of hardest pictures
FORMATS = ("PNG",)  # the format that runs write; the folder may come from someone else


@dataclass(frozen=True)
class Original:
    """A picture of the data set: index, name, class (if any), pixels."""

    index: int
    name: str
    label: str | None
    pixels: Image.Image


@dataclass(frozen=True)
class Candidate:
    """A candidate view as the page shows it.

    Args:
        id: from 1, for display.
        box: x, y, width, height of the crop in percent of the picture.
        kept: whether it was trained on.
        side: of its pixels.
        words: its drawn parameters, with the kind of view if there are several.
        data: its pixels as a ``data:`` URL.
    """

    id: int
    box: tuple[float, float, float, float]
    kept: bool
    side: int
    words: str
    data: str


@dataclass(frozen=True)
class Moment:
    """One picture at one step: the epoch, all candidates, and the choice in words."""

    epoch: int
    step: int
    candidates: list[Candidate]
    words: str


@dataclass(frozen=True)
class GalleryImage:
    """One gallery picture through training; ``width`` and ``height`` in pixels, ``data`` as a URL."""

    index: int
    name: str
    label: str | None
    width: int
    height: int
    data: str
    moments: list[Moment]


@dataclass(frozen=True)
class Extreme:
    """An easy or a hard picture; ``data`` is None if its pixels are unavailable."""

    index: int
    excess: float
    name: str
    label: str | None
    data: str | None


def gallery(
    telemetry: Telemetry, most: int = CANDIDATES, read: Callable[[int], Original | None] | None = None
) -> list[GalleryImage]:
    """Followed pictures with their candidates, rendered from the data set's pictures or the run's thumbnails.

    Args:
        telemetry: of a run.
        most: maximum candidates in all; fewer pictures are shown if each has many.
        read: reads pictures of the data set; None if it is unavailable.
    """
    count = min(max(most // (telemetry.plan.draw * MOMENTS), 2), PICTURES)
    shown: list[GalleryImage] = []
    for index, file in telemetry.gallery.items():
        rows = np.flatnonzero(telemetry["image"] == index)
        if len(shown) < count and len(rows):
            some = rows[np.unique(np.linspace(0, len(rows) - 1, MOMENTS).round().astype(int))]
            original = (read(index) if read else None) or _stored(index, file)
            if original is None:
                continue
            picture = original.pixels
            moments = _moments(telemetry.where(some), picture)
            shown.append(
                GalleryImage(
                    index,
                    original.name,
                    original.label,
                    picture.width,
                    picture.height,
                    address(picture, LARGER),
                    moments,
                )
            )
    return shown


def _stored(index: int, file: Path) -> Original | None:
    """A picture as the run stored it."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            return Original(index, f"picture {index}", None, opened.convert("RGB"))
    except Exception:  # Pillow may raise anything for a damaged file: skip it
        return None


def _moments(rows: Telemetry, picture: Image.Image) -> list[Moment]:
    pixels = torch.from_numpy(np.array(picture))
    views, plan = views_shown(rows.views(), rows.shown), plan_shown(rows.plan, rows.shown)
    resolution = min(SIDE / max(slot.size for slot in plan.slots), 1.0)
    rendered = render(ImageBatch.pack([pixels] * len(rows)), views, plan, resolution)
    slots = plan.slot_of()
    found = []
    for row in range(len(rows)):
        kept = set(rows["kept"][row].tolist())
        candidates = []
        for v in range(plan.draw):
            seen = (as_values(rendered[v][row], plan) * 255).round().byte().permute(1, 2, 0)
            x0, y0, x1, y1 = (100 * float(edge) for edge in views.box[v, row])
            candidates.append(
                Candidate(
                    v + 1,
                    (x0, y0, x1 - x0, y1 - y0),
                    v in kept,
                    seen.shape[0],
                    (f"{plan.slots[slots[v]].name}, " if len(plan.slots) > 1 else "")
                    + drawn(views, v, row, float(rows["masked"][row, v]) if "masked" in rows.rows else 0.0),
                    address(Image.fromarray(seen.numpy()), SIDE),
                )
            )
        epoch, step = int(rows["epoch"][row]), int(rows["step"][row])
        found.append(Moment(epoch + 1, step + 1, candidates, _choice(rows, row)))
    return found


def drawn(views: Views, v: int, row: int, masked: float = 0.0) -> str:
    """A view's drawn parameters in words."""
    x0, y0, x1, y1 = views.box[v, row].tolist()
    words = [f"{(x1 - x0) * (y1 - y0):.0%} of the picture"]
    words += ["mirrored"] if views.flip[v, row] else []
    brightness, contrast, saturation, hue = views.jitter[v, row].tolist()
    if (brightness, contrast, saturation, hue) != (1, 1, 1, 0):
        words.append(
            f"brightness ×{brightness:.2f}, contrast ×{contrast:.2f}, saturation ×{saturation:.2f}, "
            f"hue {hue * 360:+.0f}°"
        )
    words += ["grey"] if views.grey[v, row] else []
    words += [f"blurred by {float(views.blur[v, row]):.1f} px"] if views.blur[v, row] > 0 else []
    words += ["solarized"] if views.solarize[v, row] else []
    words += [f"{masked:.0%} masked for the student"] if masked else []
    return ", ".join(words)


def _choice(rows: Telemetry, row: int) -> str:
    """The kept ids and their cost in words."""
    *first, last = (str(id + 1) for id in rows["kept"][row].tolist())
    ids = f"{', '.join(first)} and {last}" if first else last
    cost, average = float(rows["cost"][row]), float(rows["cost_mean"][row])
    if not rows["chosen"][row]:
        return f"took {ids}, without selection"
    if not np.isfinite(cost):
        return f"kept {ids}"
    words = f"kept {ids}: cost {number(cost)}, mean of all {number(average)}"
    rank, count = int(rows["rank"][row]), combinations_of(rows.plan)
    if rank >= 0:
        words += f", hardest of {count:,}" if rank == 0 else f", rank {rank + 1} of {count:,}"
    return words


def extremes(
    telemetry: Telemetry, picture: Callable[[int], Original | None] | None
) -> tuple[list[Extreme], list[Extreme]]:
    """The hardest and the easiest followed pictures, the most extreme first; empty if costs are unknown.

    Args:
        telemetry: of a run.
        picture: reads pictures of the data set; None if it is unavailable: then only gallery pictures are shown.
    """
    found = by_image(telemetry)
    count = min(EXTREMES, len(found["image"]) // 2)

    def extreme(place: int) -> Extreme:
        index, excess = int(found["image"][place]), float(found["cost"][place])
        original = None if picture is None else picture(index)
        if original is not None:
            return Extreme(index, excess, original.name, original.label, address(original.pixels))
        file = telemetry.gallery.get(index)
        stored = _stored(index, file) if file else None
        return Extreme(index, excess, f"picture {index}", None, address(stored.pixels) if stored else None)

    last = len(found["image"]) - 1
    return [extreme(place) for place in range(count)], [extreme(last - place) for place in range(count)]


def address(picture: Image.Image, side: int = 160) -> str:
    """A picture as a ``data:`` URL, at most ``side`` pixels per side: JPEG or PNG, whichever is shorter."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    ways = []
    for kind, settings in (("jpeg", {"quality": 85, "optimize": True}), ("png", {"optimize": True})):
        buffer = BytesIO()
        small.save(buffer, kind, **settings)
        ways.append(f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}")
    return min(ways, key=len)
