"""A run's verdict: what training brought beside raw pixels and the weights it began with, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from hardviews.analysis.measured import SIZES

SURE = 2.0  # standard errors of a difference, from which on it is called one


@dataclass(frozen=True)
class Verdict:
    """What came of training.

    Args:
        kind: ``learned``: the trained backbone is better than what it is compared with, by more than two standard
            errors of the difference; ``unclear``: by less; ``below``: it is not better.
        says: a sentence.
        error: standard error of the trained backbone's accuracy, 0..1.
        resolution: the smallest difference that counts, 0..1: two standard errors of it.
    """

    kind: Literal["learned", "unclear", "below"]
    says: str
    error: float
    resolution: float


def standard_error(accuracy: float, images: int) -> float:
    """Binomial, of an accuracy (0..1) over so many test images, with two hits and two misses added, so that it is not 0
    where all are hits or misses (Agresti and Coull, The American Statistician 52, 1998)."""
    part, count = (accuracy * images + 2) / (images + 4), images + 4
    return sqrt(part * (1 - part) / count)


def verdict(figures: Mapping[str, float], began: str = "the untrained backbone") -> Verdict | None:
    """Compares the trained backbone with raw pixels or with the backbone before training, whichever is better.

    The standard error of a difference is that of two independent figures, which is too large where both are right
    about the same images: the verdict is careful.

    Args:
        figures: as in ``summary.json``: ``knn_top1``, ``knn_top1_untrained``, ``knn_top1_pixels``,
            ``knn_test_images``.
        began: the backbone before training, in words.

    Returns:
        None where there is nothing to compare: figures are missing, or are of other images than at the end.
    """
    others = {began: "knn_top1_untrained", "raw pixels": "knn_top1_pixels"}
    known = {name: figures[key] for name, key in others.items() if key in figures}
    changed = any(f"{name}_untrained" in figures for name in SIZES)
    if "knn_top1" not in figures or not figures.get("knn_test_images") or not known or changed:
        return None
    trained, images = figures["knn_top1"], int(figures["knn_test_images"])
    better = max(known, key=lambda name: known[name])
    error = standard_error(trained, images)
    of_difference = sqrt(error**2 + standard_error(known[better], images) ** 2)
    gain, resolution = trained - known[better], SURE * of_difference
    noise = f"two standard errors of the difference are {100 * resolution:.1f}"
    if gain > resolution:
        says = f"{100 * gain:.1f} points above {better}, {gain / of_difference:.1f} standard errors of the difference"
        return Verdict("learned", f"training has paid: {says}", error, resolution)
    if gain > 0:
        says = f"{100 * gain:.1f} points above {better}; {images:,} images show only differences above"
        return Verdict("unclear", f"no clear gain: {says} {100 * resolution:.1f}", error, resolution)
    where = f"{-100 * gain:.1f} points below {better}" if gain else f"no better than {better}"
    where += f" ({noise})" if gain else ""
    return Verdict("below", f"training has not paid: {where}", error, resolution)
