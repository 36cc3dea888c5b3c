"""Describes measurements in words: figures, and the images they were measured on."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hardviews.wording import several

# Columns beside the figures in ``evaluation.csv``: voting neighbours, training images searched, test images; the sizes
# of the full sets if these are samples; and the number of unreadable images, if any.
SIZES = (
    "knn_k", "knn_train_images", "knn_train_images_of", "knn_train_images_unreadable",
    "knn_test_images", "knn_test_images_of", "knn_test_images_unreadable",
)  # fmt: skip

# Figures of ``evaluation.csv`` in words.
NAMES = {
    "knn_top1": "kNN accuracy", "embedding_rank": "rank", "knn_top1_pixels": "raw pixels", "knn_top1_chance": "chance",
}  # fmt: skip

# Protocols that open test sets of their own, by the prefix of their figures' names.
OF_SCENES = {"box": "detection", "mask": "detection", "segmentation": "segmentation"}


def test_set(result: Mapping[str, Any], name: str) -> str:
    """The test set of a ``hardviews evaluate`` figure, with its size and the unreadable images left out:
    ``val (50,000 images; 1 test image could not be read and was left out)``.

    Args:
        result: a line of ``results.jsonl``.
        name: of the figure.
    """
    kind = OF_SCENES.get(name.partition("_")[0])
    test, count = (result.get(f"{kind}_{key}" if kind else key) for key in ("test_data", "test_images"))
    data = PurePath(str(result.get("data"))).name
    test = f"{test} of {data}" if test == "a held-out tenth" else PurePath(str(test or data)).name
    if count is None:
        return test
    without = "" if kind else left_out_of(result)
    return f"{test} ({several(count, 'image')}{'; ' if without else ''}{without})"


def beside_in_words(result: Mapping[str, Any]) -> dict[str, float]:
    """What the accuracies of a line of ``results.jsonl`` are to be compared with, by name."""
    found = result.get("beside", {})
    names = {"raw pixels": "knn of raw pixels", "untrained": "knn untrained", "chance": "chance"}
    return {words: found[name] for name, words in names.items() if name in found}


def left_out_of(result: Mapping[str, Any]) -> str:
    """``left_out`` for a line of ``results.jsonl``; empty for lines of versions that did not count the sets
    separately."""
    return left_out(test=result.get("test_unreadable", 0), training=result.get("train_unreadable", 0))


def left_out(images: int = 0, *, test: int = 0, training: int = 0) -> str:
    """``1 test image and 20 training images could not be read and were left out``; empty if there are none.

    Args:
        images: unreadable images that are of neither set.
        test, training: unreadable images of these sets.
    """
    counts = {"image": images, "test image": test, "training image": training}
    parts = [several(count, what) for what, count in counts.items() if count]
    were = "was" if images + test + training == 1 else "were"
    return f"{' and '.join(parts)} could not be read and {were} left out" if parts else ""


def describe_images(values: Mapping[str, float], test: str, asked: int | None = None, by: str = "kNN by") -> str:
    """``60 test images (a held-out tenth of photos), kNN by the 20 nearest of 540 training images``.

    Args:
        values: contain ``SIZES``, except in runs of earlier versions.
        test: the name of the test set.
        asked: number of neighbours requested; fewer vote if there are fewer training images.
        by: ``by`` alone where kNN is named before.
    """
    if "knn_test_images" not in values:
        return f"{test} (from a version that did not record the number of images)"
    k, count = int(values["knn_k"]), int(values["knn_train_images"])
    voted = f"the {k:,} nearest of {several(count, 'training image')}"
    if asked is not None and asked > k:
        voted = f"{'all ' if count > 1 else ''}{several(count, 'training image')}, fewer than k {asked:,}"
    drawn = f", drawn from {int(values['knn_train_images_of']):,}" if "knn_train_images_of" in values else ""
    tested = several(int(values["knn_test_images"]), "test image")
    if "knn_test_images_of" in values:
        tested = f"{int(values['knn_test_images']):,} of {several(int(values['knn_test_images_of']), 'test image')}"
    unreadable = {part: int(values.get(f"knn_{part}_images_unreadable", 0)) for part in ("test", "train")}
    without = left_out(test=unreadable["test"], training=unreadable["train"])
    return f"{tested} ({test}), {by} {voted}{drawn}{'; ' if without else ''}{without}"


def describe_figures(values: Mapping[str, float]) -> str:
    """The figures without the numbers of images: ``kNN accuracy 31.7%, rank 9.2, raw pixels 29.0%``."""
    return ", ".join(
        f"{NAMES.get(name, name)} {value:.1%}" if name.startswith("knn") else f"{NAMES.get(name, name)} {value:.1f}"
        for name, value in values.items()
        if name not in SIZES
    )
