"""What was measured, in words: how many images, and how many of them were left out."""

import csv
from pathlib import Path

from hardviews.analysis import measured
from hardviews.analysis.measured import describe_images, left_out
from hardviews.analysis.run import read

SIZES = {"knn_k": 1, "knn_train_images": 1, "knn_test_images": 1}


def test_one_image_is_singular() -> None:
    assert describe_images(SIZES, "val") == "1 test image (val), kNN by the 1 nearest of 1 training image"
    assert describe_images(SIZES | {"knn_test_images_of": 9}, "val").startswith("1 of 9 test images (val)")


def test_images_that_could_not_be_read_are_counted_beside_those_that_were() -> None:
    assert left_out() == left_out(test=0, training=0) == ""
    both = {"knn_train_images_unreadable": 1, "knn_test_images_unreadable": 2}
    said = "2 test images and 1 training image could not be read and were left out"
    assert describe_images(SIZES | both, "val").endswith(f"; {said}")
    result = {"data": "set", "test_data": "val", "test_images": 50_000, "test_unreadable": 1}
    said = "1 test image could not be read and was left out"
    assert measured.test_set(result, "knn_top1") == f"val (50,000 images; {said})"
    scenes = {"detection_test_data": "val2017", "detection_test_images": 5}
    assert measured.test_set(result | scenes, "box_map") == "val2017 (5 images)"  # which is another set


def test_a_measurement_has_its_own_numbers_of_images(tmp_path: Path) -> None:
    """Not those of one before it, which drew a sample and left some out."""
    (tmp_path / "config.yaml").write_text("method: {name: simsiam}\n")
    before = {"knn_top1": 0.5, **SIZES, "knn_test_images_of": 9, "knn_test_images_unreadable": 3}
    with (tmp_path / "evaluation.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("step", "epoch", "name", "value"))
        rows.writerows((0, 0, name, value) for name, value in before.items())
        rows.writerows((8, 2, name, value) for name, value in {"knn_top1": 0.6, **SIZES, "knn_test_images": 9}.items())
    run = read(tmp_path)
    assert run.measured_on().startswith("9 test images (the run's test set), kNN by")
    assert "left out" not in run.measured_on()
    assert run.measured_on(first=True).startswith("1 of 9 test images")
    assert run.measured_on(first=True).endswith("3 test images could not be read and were left out")
