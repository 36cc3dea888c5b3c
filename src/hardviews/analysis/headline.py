"""The first lines of a page: what was run, whether it has paid, and by how much."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from hardviews.analysis.arms import count, shortened
from hardviews.analysis.drawing import intervals
from hardviews.analysis.figure import Figure, Interval, number
from hardviews.analysis.run import Run, measured_on
from hardviews.analysis.verdict import standard_error
from hardviews.wording import several

SPLITS = {"train", "training", "images", "imgs", "data"}  # names of folders that say nothing alone
MOST = 12  # maximum rows of trained backbones
NORMAL = 1.96  # standard errors to either side of a 95 % interval


class Opinion(NamedTuple):
    """What training brought, and what to try (empty: nothing, or nothing is known)."""

    name: str
    says: str
    tries: str


def subject(config: dict[str, Any], method: str = "") -> dict[str, str]:
    """Method, data and backbone in words.

    Args:
        config: of a run.
        method: as it is written, if the caller knows that.
    """
    backbone = config.get("backbone") or {}
    path = PurePath(str(config.get("data")))
    data = f"{path.parent.name}/{path.name}" if path.name.lower() in SPLITS and path.parent.name else path.name
    name = str(backbone.get("name") if isinstance(backbone, dict) else backbone)
    return {
        "method": method or str(config["method"].get("name")).rpartition(".")[2],
        "data": f"on {shortened(data, 48)}",
        "backbone": f"with {shortened(name, 48)}",
    }


def title(runs: Sequence[Run]) -> str:
    """``SimCLR on photos with resnet18``; of several arms what they share, and their names if they are few."""
    found = [subject(run.config, run.method) for run in runs]
    shared = " ".join(text for name, text in found[0].items() if all(one[name] == text for one in found))
    names = list(dict.fromkeys(run.arm_name for run in runs))
    if len(names) == 1:
        return shared + (f", {several(len(runs), 'seed')}" if len(runs) > 1 else "")
    versus = " against ".join(names) if len(names) < 4 else several(len(names), "arm")
    return f"{shared}: {versus}" if shared else versus


def opinions(runs: Sequence[Run]) -> list[Opinion]:
    """A verdict for every run, or why there is none."""
    found = []
    for run in runs:
        if run.verdict:
            says, *tries = run.verdict
            says = says.removeprefix("verdict: ")
        elif run.summary is None:
            says, tries = "no verdict yet: the run has not ended", []
        else:
            says, tries = "no verdict: accuracy was not measured before and after training", []
        found.append(Opinion(run.name, f"{says[:1].upper()}{says[1:]}.", _sentence(tries[0]) if tries else ""))
    return found


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def standing(runs: Sequence[Run]) -> Figure | None:
    """kNN accuracy of the trained backbones beside that of the untrained one, raw pixels and chance; None if it was
    not measured."""
    measured = [run for run in runs if run.last("knn_top1") is not None]
    if not measured:
        return None
    drawn = []
    for arm in list(dict.fromkeys(run.arm for run in measured))[:MOST]:
        some = [run for run in measured if run.arm == arm]
        drawn.append(_trained(some, "trained" if count(runs) == 1 else some[0].arm_name))
    seeded = count(measured) < len(measured)
    first = measured[0]
    for name, label in (("knn_top1", "untrained"), ("knn_top1_pixels", "raw pixels"), ("knn_top1_chance", "chance")):
        value, images = first.first(name), _images(first, 0)
        if value is not None:
            # Chance is the frequency of a class, which is known.
            error = NORMAL * standard_error(value, images) if images and name != "knn_top1_chance" else 0.0
            drawn.append(_interval(label, value, max(value - error, 0), min(value + error, 1), 7, compared=True))
    bands = "Whiskers are 95 % intervals, from the number of test images alone, "
    bands += "and of several seeds, whose mean is shown, the range" if seeded else "not from other seeds"
    caption = f"Nearest-neighbour accuracy{measured_on(measured)}. {bands}. Labels are used only here."
    return intervals(
        "standing", "What training brought", caption, drawn, x_label="test pictures classified right",
        head="features", percent=True,
    )  # fmt: skip


def _trained(some: Sequence[Run], label: str) -> Interval:
    values = np.array([run.last("knn_top1") for run in some], dtype=float)
    value = float(values.mean())
    if len(some) > 1:
        low, high = float(values.min()), float(values.max())
        written = f"{number(value, True)} ({100 * low:.1f} to {100 * high:.1f})"
        return Interval(label, value, low, high, written, some[0].arm)
    images = _images(some[0], -1)
    error = NORMAL * standard_error(value, images) if images else 0.0
    return _interval(label, value, max(value - error, 0), min(value + error, 1), some[0].arm)


def _interval(label: str, value: float, low: float, high: float, run: int, compared: bool = False) -> Interval:
    off = max(high - value, value - low)
    return Interval(
        label, value, low, high, number(value, True) + (f" ± {100 * off:.1f}" if off else ""), run, compared
    )


def _images(run: Run, place: int) -> int:
    """Test images of the first or the last measurement; 0 if that is unknown."""
    sizes = run.evaluations.get("knn_test_images", [])
    return int(sizes[place][1]) if sizes else 0
