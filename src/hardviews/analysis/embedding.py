"""What the backbone makes of pictures: a map of their features, nearest neighbours, and attention, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardviews.analysis.figure import RUNS, number
from hardviews.analysis.pictures import address
from hardviews.telemetry.reading import Array
from hardviews.wording import several

ON_MAP, SIDE = 90, 0.075  # maximum thumbnails of a map, and their side as a part of its width
QUERIES, NEAREST = 6, 5
WIDE, HIGH = 100.0, 76.0  # of a map's own units


@dataclass(frozen=True, eq=False)
class Inspection:
    """A run's pictures and features; ``None`` where they could not be made.

    Args:
        names: of N pictures.
        labels: their classes, int ``[N]``; None if the data has none.
        class_names: of the classes.
        pictures: as the network gets them.
        before, after: features ``[N, D]``, before and after training.
        attention_before, attention_after: of the first pictures, ``[n, rows, columns]``.
        of: size of the data set.
        notes: what could not be made, and why.
    """

    names: list[str]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None
    pictures: list[Image.Image]
    before: Array | None
    after: Array
    attention_before: Array | None
    attention_after: Array | None
    of: int
    notes: list[str] = field(default_factory=list)

    def label(self, index: int) -> str:
        """A picture's class in words; empty if it has none."""
        if self.labels is None:
            return ""
        label = int(self.labels[index])
        return self.class_names[label] if self.class_names else f"class {label}"


@dataclass(frozen=True)
class Thumbnail:
    """A picture on a map: its corner and side in the map's units; without ``data`` it is a point."""

    x: float
    y: float
    colour: str
    name: str
    data: str = ""


@dataclass(frozen=True)
class FeatureMap:
    """A map of features: the share of their variance that its two axes hold, and its pictures."""

    title: str
    share: float
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class Neighbour:
    """A picture, and whether its class is that of the picture it is near to (None: unknown)."""

    data: str
    name: str
    label: str
    same: bool | None


@dataclass(frozen=True)
class Neighbours:
    """A picture and those nearest to it, before and after training."""

    query: Neighbour
    before: list[Neighbour]
    after: list[Neighbour]


@dataclass(frozen=True)
class Attended:
    """A picture, and where the network looks before and after training (empty: unknown)."""

    name: str
    data: str
    before: str
    after: str


@dataclass(frozen=True)
class Seen:
    """What a page shows of one run's features.

    Args:
        run: its name.
        maps: before and after.
        colours: of the classes on the maps: name and colour.
        neighbours: of a few pictures.
        same: the share of the nearest pictures that are of the same class: before, after, and by chance.
        attended: of a few pictures.
        words: how many pictures these are.
        notes: what could not be made, and why.
    """

    run: str
    maps: list[FeatureMap]
    colours: list[tuple[str, str]]
    neighbours: list[Neighbours]
    same: list[tuple[str, float]]
    attended: list[Attended]
    words: str
    notes: list[str]


def seen(run: str, found: Inspection | str) -> Seen:
    """What to show of a run; ``found`` may be the reason why there is nothing."""
    if isinstance(found, str):
        return Seen(run, [], [], [], [], [], "", [f"No map, neighbours or attention maps: {found}."])
    features = {"before training": found.before, "after training": found.after}
    known = {when: unit_rows(one) for when, one in features.items() if one is not None and np.isfinite(one).all()}
    lost = [f"Features {when} are not finite." for when, one in features.items() if one is not None]
    notes = found.notes + [note for note, when in zip(lost, features, strict=False) if when not in known]
    colours = class_colours(found)
    maps = [_map(f"{when[:1].upper()}{when[1:]}", one, found, dict(colours)) for when, one in known.items()]
    near = {when: nearest(one) for when, one in known.items()}
    count = f"{len(found.names):,}" if len(found.names) < found.of else f"all {found.of:,}"
    of = f" of the {found.of:,}" if len(found.names) < found.of else ""
    words = f"{count}{of} training pictures"
    legend = colours if len(colours) > 1 else []
    return Seen(
        run, maps, legend, _neighbours(found, near), _same(found, near), _attended(found), words, notes
    )  # fmt: skip


def unit_rows(features: Array) -> Array:
    """Rows of length 1: what counts is their direction, as for kNN."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    found: Array = features / np.maximum(length, 1e-12)
    return found


def components(features: Array) -> tuple[Array, float]:
    """The two principal components of rows ``[N, 2]``, and their share of the variance. Signs are fixed: the largest
    value of each is positive."""
    centred = features - features.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.zeros((len(features), 2))
    width = min(2, left.shape[1])
    found[:, :width] = left[:, :width] * scale[:width]
    signs = np.sign(found[np.abs(found).argmax(0), [0, 1]])
    total = float((scale**2).sum())
    return found * np.where(signs == 0, 1, signs), float((scale[:2] ** 2).sum() / total) if total > 0 else 0.0


def nearest(features: Array) -> NDArray[np.int64]:
    """Of every row, the others by falling cosine similarity, at most ``NEAREST``: ``[N, k]``."""
    similar = features @ features.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, : min(NEAREST, len(features) - 1)]


def class_colours(found: Inspection) -> list[tuple[str, str]]:
    """The most frequent classes with a colour each; others are grey."""
    if found.labels is None:
        return []
    classes, counts = np.unique(found.labels, return_counts=True)
    order = classes[np.argsort(-counts, kind="stable")]
    few = order if len(order) <= RUNS else order[: RUNS - 1]
    names = [found.class_names[one] if found.class_names else f"class {one}" for one in few.tolist()]
    colours = [(name, f"run-{place}") for place, name in enumerate(names)]
    return colours + ([("other classes", "muted")] if len(order) > len(few) else [])


def _map(title: str, features: Array, found: Inspection, colours: dict[str, str]) -> FeatureMap:
    """Thumbnails go where there is room for them, the others are points."""
    places, share = components(features)
    low, span = places.min(0), np.maximum(np.ptp(places, 0), 1e-9)
    side = SIDE * WIDE
    at = (places - low) / span * [WIDE - side, HIGH - side]
    at[:, 1] = HIGH - side - at[:, 1]
    points: list[Thumbnail] = []
    shown: list[Thumbnail] = []
    for index, (x, y) in enumerate(at.tolist()):
        colour = colours.get(found.label(index), "muted" if colours else "run-0")
        label = found.label(index)
        name = f"{found.names[index]}, {label}" if label else found.names[index]
        free = all(abs(x - other.x) > side * 1.06 or abs(y - other.y) > side * 1.06 for other in shown)
        if free and len(shown) < ON_MAP:
            shown.append(Thumbnail(x, y, colour, name, address(found.pictures[index], 56)))
        else:
            points.append(Thumbnail(x + side / 2, y + side / 2, colour, name))
    return FeatureMap(title, share, points + shown)


def _neighbours(found: Inspection, near: dict[str, NDArray[np.int64]]) -> list[Neighbours]:
    """Of the first picture of every class, as far as there is room."""
    labels = found.labels
    firsts = np.arange(len(found.names)) if labels is None else np.sort(np.unique(labels, return_index=True)[1])

    def one(index: int, query: int) -> Neighbour:
        same = None if labels is None or index == query else bool(labels[index] == labels[query])
        return Neighbour(address(found.pictures[index], 112), found.names[index], found.label(index), same)

    rows = []
    for query in firsts[:QUERIES].tolist():
        beside = {when: [one(index, query) for index in ids[query].tolist()] for when, ids in near.items()}
        rows.append(Neighbours(one(query, query), beside.get("before training", []), beside.get("after training", [])))
    return rows if near else []


def _same(found: Inspection, near: dict[str, NDArray[np.int64]]) -> list[tuple[str, float]]:
    if found.labels is None or not near:
        return []
    labels = found.labels
    shares = [(when, float((labels[ids] == labels[:, None]).mean())) for when, ids in near.items()]
    count = np.unique(labels, return_counts=True)[1]
    chance = float((count * (count - 1)).sum() / (len(labels) * (len(labels) - 1)))
    return [*shares, ("by chance", chance)]


def _attended(found: Inspection) -> list[Attended]:
    if found.attention_after is None:
        return []
    rows = []
    for index, after in enumerate(found.attention_after):
        picture = found.pictures[index]
        before = None if found.attention_before is None else found.attention_before[index]
        rows.append(
            Attended(
                found.names[index],
                address(picture, 160),
                "" if before is None else address(heated(picture, before)),
                address(heated(picture, after)),
            )
        )
    return rows


def heated(picture: Image.Image, attention: Array) -> Image.Image:
    """A map over a picture: bright where attention is high, from the map's lowest to its highest value."""
    size = (max(picture.width, 96), max(picture.height, 96))
    low, high = float(attention.min()), float(attention.max())
    scaled = (attention - low) / max(high - low, 1e-12)
    grey = Image.fromarray((255 * scaled).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    heat = Image.fromarray((255 * mpl.colormaps["inferno"](np.asarray(grey))[..., :3]).astype(np.uint8))
    return Image.blend(picture.convert("L").convert("RGB").resize(size), heat, 0.6)


def described(same: Sequence[tuple[str, float]]) -> str:
    """``_same`` as a sentence; empty if it is unknown."""
    if not same:
        return ""
    shares = {when: number(share, True) for when, share in same}
    before = f"{shares['before training']} before training and " if "before training" in shares else ""
    after = shares.get("after training", "–")
    return (
        f"Of the {several(NEAREST, 'nearest picture')} of every picture, {before}{after} after it are of the same "
        f"class; by chance {shares['by chance']}."
    )
