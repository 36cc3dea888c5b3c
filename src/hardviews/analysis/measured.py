"""What was measured, in words: figures, and the images that they are of."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

# What stands beside the figures in ``evaluation.csv``: neighbours that voted, training images among which they were
# looked for, test images; and of how many they are a sample, where they are one.
SIZES = ("knn_k", "knn_train_images", "knn_train_images_of", "knn_test_images", "knn_test_images_of")

# The protocols that open test sets of their own, by how their figures' names begin.
OF_SCENES = {"box": "detection", "mask": "detection", "segmentation": "segmentation"}


def test_set(result: Mapping[str, Any], name: str) -> str:
    """The test set of a figure of ``hardviews evaluate``, with its size: ``val (50,000 images)``.

    Args:
        result: a line of ``results.jsonl``.
        name: of the figure.
    """
    kind = OF_SCENES.get(name.partition("_")[0])
    test, count = (result.get(f"{kind}_{key}" if kind else key) for key in ("test_data", "test_images"))
    data = PurePath(str(result.get("data"))).name
    test = f"{test} of {data}" if test == "a held-out tenth" else PurePath(str(test or data)).name
    return test if count is None else f"{test} ({count:,} {'image' if count == 1 else 'images'})"


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
    voted = f"the {k:,} nearest of {count:,} training images"
    if asked is not None and asked > k:
        voted = f"all {count:,} training images, fewer than k {asked:,}"
    drawn = f", drawn from {int(values['knn_train_images_of']):,}" if "knn_train_images_of" in values else ""
    tested = f"{int(values['knn_test_images']):,}"
    tested += f" of {int(values['knn_test_images_of']):,}" if "knn_test_images_of" in values else ""
    return f"{tested} test images ({test}), kNN by {voted}{drawn}"


def describe_figures(values: Mapping[str, float]) -> str:
    """``knn_top1 31.7%, embedding_rank 9.2``, without the numbers of images."""
    return ", ".join(
        f"{name} {value:.1%}" if name.startswith("knn") else f"{name} {value:.1f}"
        for name, value in values.items()
        if name not in SIZES
    )
