"""What was measured, in words: figures, and the images that they are of."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hardviews.wording import several

# What stands beside the figures in ``evaluation.csv``: neighbours that voted, training images among which they were
# looked for, test images; of how many they are a sample, where they are one; how many more could not be read, if any.
SIZES = (
    "knn_k", "knn_train_images", "knn_train_images_of", "knn_train_images_unreadable",
    "knn_test_images", "knn_test_images_of", "knn_test_images_unreadable",
)  # fmt: skip

# The protocols that open test sets of their own, by how their figures' names begin.
OF_SCENES = {"box": "detection", "mask": "detection", "segmentation": "segmentation"}


def test_set(result: Mapping[str, Any], name: str) -> str:
    """The test set of a figure of ``hardviews evaluate``, with its size and what of it, and of the training images,
    was left out: ``val (50,000 images; 1 test image could not be read and was left out)``.

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


def left_out_of(result: Mapping[str, Any]) -> str:
    """As ``left_out``, of a line of ``results.jsonl``; empty for lines of versions that counted them together."""
    return left_out(test=result.get("test_unreadable", 0), training=result.get("train_unreadable", 0))


def left_out(images: int = 0, *, test: int = 0, training: int = 0) -> str:
    """``1 test image and 20 training images could not be read and were left out``; empty where there are none.

    Args:
        images: where they are neither of the other two.
        test, training: as named.
    """
    counts = {"image": images, "test image": test, "training image": training}
    parts = [several(count, what) for what, count in counts.items() if count]
    were = "was" if images + test + training == 1 else "were"
    return f"{' and '.join(parts)} could not be read and {were} left out" if parts else ""


def describe_images(values: Mapping[str, float], test: str, asked: int | None = None) -> str:
    """``60 test images (a held-out tenth of photos), kNN by the 20 nearest of 540 training images``.

    Args:
        values: that hold ``SIZES``; runs of earlier versions have none.
        test: the name of the test set.
        asked: neighbours that were asked for; fewer vote where there are fewer training images.
    """
    if "knn_test_images" not in values:
        return f"{test} (of a version that did not record how many images)"
    k, count = int(values["knn_k"]), int(values["knn_train_images"])
    voted = f"the {k:,} nearest of {several(count, 'training image')}"
    if asked is not None and asked > k:
        voted = f"{'all ' if count > 1 else ''}{several(count, 'training image')}, fewer than k {asked:,}"
    drawn = f", drawn from {int(values['knn_train_images_of']):,}" if "knn_train_images_of" in values else ""
    tested = several(int(values["knn_test_images"]), "test image")
    if "knn_test_images_of" in values:
        tested = f"{int(values['knn_test_images']):,} of {several(int(values['knn_test_images_of']), 'test image')}"
    lacking = {part: int(values.get(f"knn_{part}_images_unreadable", 0)) for part in ("test", "train")}
    without = left_out(test=lacking["test"], training=lacking["train"])
    return f"{tested} ({test}), kNN by {voted}{drawn}{'; ' if without else ''}{without}"


def describe_figures(values: Mapping[str, float]) -> str:
    """``knn_top1 31.7%, embedding_rank 9.2``, without the numbers of images."""
    return ", ".join(
        f"{name} {value:.1%}" if name.startswith("knn") else f"{name} {value:.1f}"
        for name, value in values.items()
        if name not in SIZES
    )
