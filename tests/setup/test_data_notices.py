"""What every verb says of data that may not be what its user takes it for, and what its results hold of that."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardviews.cli import main
from hardviews.comparison import compare as comparing
from hardviews.comparison import statistics

TINY = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --batch-size 16 --workers 0 "
    "--tensorboard false --epochs 1 --method.dim 16 --method.predictor-dim 8 --accelerator cpu"
)
WITHIN = "test images are training images too, byte for byte: what is measured by them says little of new images"


def noise(file: Path, seed: int, size: int = 32) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def classes(root: Path, first: int, count: int) -> Path:
    for number in range(first, first + count):
        noise(root / "ab"[number % 2] / f"{number}.png", number)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notices") / "run"
    assert main(["pretrain", *TINY.split(), "--knn-epochs", "0", "--data", "shapes:16", "--out", str(folder)]) == 0
    return folder


def lines(text: str, start: str = "") -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def pretrained(data: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["pretrain", *TINY.split(), "--data", str(data), "--out", str(out), *more]) == 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def test_small_pictures_of_a_folder_are_trained_on_at_their_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = classes(tmp_path / "data", 0, 20)
    summary = pretrained(data, tmp_path / "run")
    printed = capsys.readouterr()
    assert "resnet18 at 32 px" in printed.out
    assert "knn_top1" in summary
    assert not printed.err
    assert main(["evaluate", str(run), "--data", str(data), "--workers", "0", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["crop"] == 1.0
    assert not printed.err
    noise(data / "a" / "2.png", 2, 50)  # one of another size, so that none is held
    assert pretrained(data, tmp_path / "other")["unreadable"] == 0
    assert "resnet18 at 32 px" in capsys.readouterr().out


def test_what_is_passed_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = classes(tmp_path / "data", 0, 20)
    for number in range(3):
        (data / "a" / f"{number}.dng").touch()
    said = "3 files are passed over: 3 .dng (not read as pictures: convert or unpack them to JPEG or PNG)"
    line = f"data: data: {said}"
    pretrained(data, tmp_path / "run", "--knn-epochs", "0")
    assert lines(capsys.readouterr().err) == [line]
    embed = ["embed", str(run), "--data", str(data), "--out", str(tmp_path / "e.parquet"), "--workers", "0"]
    for argv in (["evaluate", str(run), "--data", str(data), "--workers", "0"], embed):
        assert main(argv) == 0
        assert lines(capsys.readouterr().err) == [line]
    (data / "a" / "0.jpg").write_bytes(b"not a picture")
    options = ["--data", str(data), "--out", str(tmp_path / "other"), "--doctor", "--json", "--max-unreadable", "0.5"]
    main(["pretrain", *TINY.split(), *options])  # noise need not be learned
    (check,) = [found for found in json.loads(capsys.readouterr().out)["checks"] if found["name"] == "data"]
    assert check["verdict"] == "warning"
    assert said in check["says"]
    assert check["figures"]["passed_over"] == said
    assert check["figures"]["cut_short"] == 0


def test_why_there_are_no_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = classes(tmp_path / "data", 0, 20)
    noise(data / "logo.png", 99)
    why = f"1 of its 21 images lies beside the class folders: {data}/logo.png; move"
    assert "knn_top1" not in pretrained(data, tmp_path / "run")
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(f"data: data has no labels: no kNN accuracy is measured on the way; {why}")
    pretrained(data, tmp_path / "not-measured", "--knn-epochs", "0")
    assert not capsys.readouterr().err
    assert main(["embed", str(run), "--data", str(data), "--out", str(tmp_path / "e.parquet"), "--workers", "0"]) == 0
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(f"data: data has no labels: none are written; {why}")
    other = classes(tmp_path / "other", 20, 20)
    for argv, says in (
        (["evaluate", str(run), "--data", str(data)], f"data: has no labels, which this protocol needs: {why}"),
        (["evaluate", str(run), "--data", str(other), "--test-data", str(data)], why),
        (["compare", "--data", str(data), "--dry-run"], f"has no labels to measure by: {why}"),
        (["compare", "--data", str(other), "--test-data", str(data), "--dry-run"], "test-data: data has no lab"),
        (
            ["pretrain", "--data", str(other), "--test-data", str(data), "--method", "simsiam"],
            f"kNN needs them on both sides: {why}",
        ),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert says in error, argv
        assert why in error, argv
        assert error.count("\n") == 1


def test_a_root_of_splits_is_offered_as_data_and_test_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes(tmp_path / "root" / "train", 0, 20)
    classes(tmp_path / "root" / "val", 20, 10)
    evaluate = ["evaluate", str(run), "--workers", "0"]
    assert main([*evaluate, "--data", str(tmp_path / "root")]) == 2
    offered = capsys.readouterr().err.strip().rpartition("; give ")[2].split()
    assert offered == ["--data", f"{tmp_path}/root/train", "--test-data", f"{tmp_path}/root/val"]
    assert main([*evaluate, *offered]) == 0
    assert not capsys.readouterr().err


def test_test_images_that_are_training_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = classes(tmp_path / "train", 0, 20), classes(tmp_path / "test", 20, 9)
    shutil.copy(train / "a" / "4.png", test / "a" / "copy.png")
    shutil.copytree(train, tmp_path / "copy")
    said = "test-data: 1 of the 10 test images is a training image too, byte for byte: "
    summary = pretrained(train, tmp_path / "run", "--test-data", str(test))
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(said)
    assert (summary["test_images_in_train"], summary["test_images_compared"]) == (1, 10)
    assert pretrained(train, tmp_path / "other")["test_images_in_train"] == 0  # each is left out in turn
    assert not capsys.readouterr().err
    evaluate = ["evaluate", str(run), "--data", str(train), "--workers", "0", "--json", "--test-data"]
    for data, count, start in ((test, 1, said), (tmp_path / "copy", 20, f"test-data: 20 of the 20 {WITHIN}")):
        assert main([*evaluate, str(data)]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["test_images_in_train"] == count
        (line,) = lines(printed.err)
        assert line.startswith(start)
    written = [json.loads(text) for text in (run / "results.jsonl").read_text().splitlines()]
    assert [result.get("test_images_in_train") for result in written[-2:]] == [1, 20]
    assert main(["compare", "--data", str(train), "--test-data", str(test), *TINY.split(), "--dry-run"]) == 0
    (line,) = lines(capsys.readouterr().err, "test-data")
    assert line.startswith(said)


def test_a_comparison_holds_it_in_its_figures_and_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = classes(tmp_path / "train", 0, 20), classes(tmp_path / "test", 0, 4)
    plan: dict[str, Any] = {"baseline": "random", "epochs": 1, "steps_per_epoch": 1, "arms": {}}
    for name in ("random", "hardest"):
        plan["arms"][name] = {"seconds_per_epoch": 1.0, "equal_time_epochs": 1, "settings": {}}
    monkeypatch.setattr(comparing, "make_plan", lambda *_: plan)
    monkeypatch.setattr(comparing, "make_runs", lambda *_: [])  # nothing is trained
    made = (
        statistics.MeasuredRun("random", 0, 1, 1.0, {"knn_top1": 0.5}),
        statistics.MeasuredRun("hardest", 0, 1, 1.0, {"knn_top1": 0.5}),
    )
    monkeypatch.setattr(comparing, "runs_of", lambda _: list(made))
    line = ["--data", str(train), "--test-data", str(test), *TINY.split(), "--seeds", "1", "--out", str(tmp_path / "c")]
    assert main(["compare", *line]) == 0
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert (found["test_images_in_train"], found["test_images_compared"]) == (4, 4)
    assert f"test-data: 4 of the 4 {WITHIN}" in found["said"]
    assert WITHIN in (tmp_path / "c" / "comparison.md").read_text()


def test_held_out_images_that_are_training_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every picture is there twice, so the tenth that is held out has the copies of some that are trained on."""
    data = classes(tmp_path / "data", 0, 10)
    for number in range(10):
        shutil.copy(data / "ab"[number % 2] / f"{number}.png", data / "ab"[number % 2] / f"copy-{number}.png")
    said = "held-out tenth of seed 0: 2 of the 2 held-out images are training images too, byte for byte: "
    summary = pretrained(data, tmp_path / "run", "--knn-test", "tenth")
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(said)
    assert (summary["test_images_in_train"], summary["test_images_compared"]) == (2, 2)
    (data / "a" / "copy-0.png").unlink()  # so that one picture is there once
    each = "knn-test leave_one_out: 18 of the 19 images are there more than once, byte for byte: "
    summary = pretrained(data, tmp_path / "each")
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(each)
    assert (summary["test_images_in_train"], summary["test_images_compared"]) == (18, 19)
    shutil.copy(data / "a" / "0.png", data / "a" / "copy-0.png")
    assert "test_images_in_train" not in pretrained(data, tmp_path / "not-measured", "--knn-epochs", "0")
    assert not capsys.readouterr().err
    assert main(["evaluate", str(run), "--data", str(data), "--workers", "0", "--json"]) == 0
    printed = capsys.readouterr()
    assert lines(printed.err)[0].startswith(said)
    assert json.loads(printed.out)["test_images_in_train"] == 2
    doctor = ["--out", str(tmp_path / "d"), "--doctor", "--json", "--knn-test", "tenth"]
    main(["pretrain", *TINY.split(), "--data", str(data), *doctor])
    (check,) = [found for found in json.loads(capsys.readouterr().out)["checks"] if found["name"] == "data"]
    assert said in check["says"]
