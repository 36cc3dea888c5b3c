"""A report says what the run folder says, of every kind of run, and breaks on none."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardviews.analysis import page as pages
from hardviews.analysis.arms import shortened
from hardviews.analysis.measured import SIZES
from hardviews.analysis.pictures import gallery
from hardviews.cli import main
from hardviews.selection.policies import names
from hardviews.telemetry.reading import load
from tests.analysis.reading import Page, check
from tests.runs.conftest import STRANGE_CLASS, STRANGE_DATA, STRANGE_RUN, TINY

Reported = Callable[..., Page]


@pytest.fixture
def reported(tmp_path: Path) -> Reported:
    def report(*runs: Path) -> Page:
        out = tmp_path / "page.html"
        assert main(["report", *map(str, runs), "--out", str(out)]) == 0
        return check(out.read_text(encoding="utf-8"))

    return report


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def copied(run: Path, to: Path, *without: str) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoints", *without))
    return to


def pretrained(out: Path, more: str) -> Path:
    assert main(["pretrain", *TINY.split(), *more.split(), "--out", str(out)]) == 0
    return out


SIMSIAM = "--method.dim 16 --method.predictor-dim 8"


def test_figures_are_those_of_the_files(strange_run: Path, reported: Reported) -> None:
    page = reported(strange_run)
    steps, measured = rows_of(strange_run / "metrics.csv"), rows_of(strange_run / "evaluation.csv")
    by_name = {(row["name"], row["step"]): float(row["value"]) for row in measured}
    last = max(int(row["step"]) for row in measured)
    assert page.values("knn_top1") == [by_name["knn_top1", str(last)]]
    assert page.values("knn_top1_untrained") == [by_name["knn_top1", "0"]]
    assert page.values("knn_top1_pixels") == [by_name["knn_top1_pixels", "0"]]
    for name in ("iou_kept", "iou_random"):
        assert page.values(name) == [pytest.approx(np.mean([float(row[name]) for row in steps]))]
    spent = {part: sum(float(row[f"seconds_{part}"]) for row in steps) for part in ("data", "render", "score", "train")}
    assert page.values("seconds") == [pytest.approx(sum(spent.values()))]
    assert page.values("seconds") == [pytest.approx(json.loads((strange_run / "summary.json").read_text())["seconds"])]
    assert page.values("share_score") == [pytest.approx(spent["score"] / sum(spent.values()))]
    # How often the kept pair is that of lowest IoU, counted by hand.
    telemetry = load(strange_run)
    hits = []
    for row in range(len(telemetry)):
        boxes = telemetry["box"][row].astype(np.float64)

        def iou(ids: list[int], boxes: np.ndarray = boxes) -> float:
            a, b = boxes[ids]
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            shared = np.prod(np.maximum(sides, 0))
            return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))

        every = [iou(list(pair)) for pair in telemetry.combinations.tolist()]
        hits.append(iou(telemetry["kept"][row].tolist()) <= min(every) + 1e-6)
    assert page.values("lowest_iou_kept") == [pytest.approx(np.mean(hits))]
    assert page.missing() == ""
    wanted = {"loss", "knn", "cost", "rank", "time", "throughput", "iou", "iou-histogram", "lowest-iou", "overlap",
              "distance", "area", "brightness-difference", "hue-difference", "preference", "importance",
              "standing", "rate", "memory"}  # fmt: skip
    assert wanted <= set(page.figures())
    most = max(float(row["memory"]) for row in steps)
    assert 0.05 < most < 64  # GiB
    assert f"It has {most:#.3g} GiB at most." in page.caption("memory")
    assert len(page.html) < 4_000_000
    assert re.search(r"explain \d+\.\d% of the variance", page.caption("importance"))
    kept, random = page.values("iou_kept")[0], page.values("iou_random")[0]
    assert f"{kept:.3f} against {random:.3f}" in page.caption("iou")


def test_what_users_named_is_text(strange_run: Path, reported: Reported) -> None:
    page = reported(strange_run)
    assert page.all("h1")[0].text == f"SimCLR on {STRANGE_DATA} with resnet18"
    assert any(STRANGE_RUN in element.text for element in page.all("p"))
    assert STRANGE_DATA in next(element.text for element in page.all("dl") if "Method" in element.text)
    assert any(STRANGE_CLASS in element.text for element in page.all("li"))
    assert not any("tures" in element.text or "cats" in element.text for element in page.all("b") + page.all("i"))


def test_the_gallery_shows_what_was_kept(strange_run: Path, reported: Reported) -> None:
    page, telemetry = reported(strange_run), load(strange_run)
    shown = gallery(telemetry)
    assert len(shown) == 6
    for picture in shown:
        assert picture.moments[0].epoch == 1
        for moment in picture.moments:
            (row,) = np.flatnonzero((telemetry["image"] == picture.index) & (telemetry["step"] == moment.step - 1))
            kept = [candidate.id - 1 for candidate in moment.candidates if candidate.kept]
            assert kept == sorted(telemetry["kept"][row].tolist())
            for v, candidate in enumerate(moment.candidates):
                x, y, wide, high = candidate.box
                assert [x, y, x + wide, y + high] == pytest.approx((telemetry["box"][row, v] * 100).tolist())
    images = [element for element in page.all("img") if element.attributes["alt"].startswith("Candidate")]
    moments = sum(len(picture.moments) for picture in shown)
    assert len(images) == 4 * moments
    assert sum(", kept:" in element.attributes["alt"] for element in images) == 2 * moments
    assert sum("kept" in element.text for element in page.all("li") if element.path[-1] == "ol") == 2 * moments


def test_hard_pictures_come_from_the_data_or_the_page_says_why(
    strange_run: Path, reported: Reported, tmp_path: Path
) -> None:
    page = reported(strange_run)
    excess = page.values("excess")
    assert len(excess) == 16
    assert excess[:8] == sorted(excess[:8], key=lambda value: -(value or 0))
    assert min(value or 0 for value in excess[:8]) >= max(value or 0 for value in excess[8:])
    moved = copied(strange_run, tmp_path / "moved")
    config = (moved / "config.yaml").read_text().replace(STRANGE_DATA.replace('"', '\\"'), "gone")
    (moved / "config.yaml").write_text(config.replace(STRANGE_DATA, "gone"))
    gone = reported(moved)
    assert "could not be read" in gone.missing()
    assert "picture " in "".join(element.text for element in gone.all("ol"))
    assert gone.values("excess") == excess


def test_an_interrupted_run_says_so(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    run = copied(strange_run, tmp_path / "cut", "summary.json", "epoch-0003.npz", "epoch-0004.npz")
    whole = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(whole[: whole.index("\n18,") + 5])
    page = reported(run)
    assert "unfinished or interrupted" in page.all("dl")[1].text
    assert "Scored" in page.all("dl")[1].text
    assert "3.60 of 5 (18 steps" in page.all("dl")[1].text
    steps = rows_of(run / "metrics.csv")[:18]
    assert page.values("iou_kept") == [pytest.approx(np.mean([float(row["iou_kept"]) for row in steps]))]


def test_a_run_that_has_written_nothing_yet(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    run = copied(strange_run, tmp_path / "new", "*.csv", "*.json", "telemetry")
    page = reported(run)
    assert page.figures() == []
    for part in ("no step was written", "kNN accuracy was not measured", "no telemetry", "Nothing was measured"):
        assert part in page.missing()


def test_without_telemetry_and_labels_and_with_one_epoch(reported: Reported, tmp_path: Path) -> None:
    run = pretrained(tmp_path / "run", f"--data shapes:48 {SIMSIAM} --epochs 1 --knn-epochs 0 --telemetry 0")
    page = reported(run)
    assert {"loss", "cost", "time", "iou"} <= set(page.figures())
    assert not {"knn", "importance", "overlap"} & set(page.figures())
    assert page.values("knn_top1") == []
    for part in ("kNN accuracy was not measured", "has no telemetry", "No pictures"):
        assert part in page.missing()


def test_a_run_that_diverged_is_told_of_all_the_same(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    """With nothing but its loss and its accuracy gone, the page says so and has all the rest."""
    run = copied(strange_run, tmp_path / "diverged")
    for file, column in (("metrics.csv", "loss"), ("evaluation.csv", "value")):
        rows = [row | {column: "" if column == "loss" else "nan"} for row in rows_of(run / file)]
        with (run / file).open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    page = reported(run)
    assert "no step had a finite loss: training diverged at the start" in page.missing()
    assert "or features were not finite" in page.missing()
    assert not {"loss", "knn", "rank"} & set(page.figures())
    assert {"time", "iou", "overlap", "lowest-iou"} <= set(page.figures())


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("hardest", "it finds such views hard."),
        ("sampled(64)", "it finds such views hard."),
        ("easiest", "it finds such views easy."),
        ("random", "the model was not asked, so all differences are chance."),
        ("lowest_iou", "other differences say nothing about it."),
    ],
)
def test_what_differs_is_explained_by_the_policy(
    policy: str, says: str, strange_run: Path, reported: Reported, tmp_path: Path
) -> None:
    run = copied(strange_run, tmp_path / "run", "gallery")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("policy: hardest", f"policy: {policy}"))
    page = reported(run)
    openings = [element.text for element in page.all("p") if "the model was" in element.text.lower()]
    assert len(openings) == 1
    assert all(says in opening for opening in openings)


def test_every_policy_is_explained() -> None:
    assert pages.MEANING.keys() == set(names())


def test_where_nothing_is_chosen_nothing_is_claimed(reported: Reported, tmp_path: Path) -> None:
    run = pretrained(tmp_path / "run", f"--data shapes:48 {SIMSIAM} --epochs 1 --knn-epochs 1 --views 2")
    page = reported(run)
    assert any("Nothing was selected: all views that were drawn" in one.text for one in page.all("p"))
    assert page.values("iou_kept") == page.values("share_score") == []
    assert "Scored" not in page.all("dl")[1].text  # nothing was
    assert not {"lowest-iou", "importance", "preference"} & set(page.figures())
    assert page.values("lowest_iou_kept") == []


def test_the_verdict_comes_first(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    """In the first lines: the verdict, and trained, untrained, pixels and chance with their errors."""
    summary = json.loads((strange_run / "summary.json").read_text())
    page = reported(strange_run)
    first = next(element.text for element in page.all("p") if "verdict" in element.attributes.get("class", ""))
    says, *tries = summary["verdict_says"]
    assert says.removeprefix("verdict: ")[1:] in first
    assert all(words[1:] in first for words in tries)
    assert page.figures()[0] == "standing"
    place = next(at for at, element in enumerate(page.elements) if element.attributes.get("id") == "standing")
    table = next(element.text for element in page.elements[place:] if element.tag == "table")
    for name, label in (("knn_top1", "trained"), ("knn_top1_untrained", "untrained"), ("knn_top1_pixels", "raw")):
        accuracy, images = summary[name], summary["knn_test_images"]
        part = (accuracy * images + 2) / (images + 4)
        assert f"{accuracy:.1%} ± {196 * (part * (1 - part) / (images + 4)) ** 0.5:.1f}" in table, label
    assert f"{summary['knn_top1_chance']:.1%}" in table
    unfinished = reported(copied(strange_run, tmp_path / "unfinished", "summary.json"))
    assert "No verdict yet: the run has not ended." in unfinished.html


def test_what_never_changes_is_not_drawn(strange_run: Path, reported: Reported) -> None:
    assert {row["skipped"] for row in rows_of(strange_run / "metrics.csv")} == {"0"}
    assert "extra-skipped" not in reported(strange_run).figures()


def test_seeds_are_one_line_with_a_band(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    """Runs that differ in their seed only: as of one run, with the mean of both, and the range in words."""
    other = copied(strange_run, tmp_path / "other")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("seed: 0", "seed: 1"))
    rows = rows_of(other / "evaluation.csv")
    for row in rows:
        row["value"] = str(float(row["value"]) + 0.1) if row["name"] == "knn_top1" else row["value"]
    with (other / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    page = reported(strange_run, other)
    before, after = page.values("knn_top1")
    assert before is not None
    assert after is not None
    assert after == pytest.approx(before + 0.1)
    assert page.all("h1")[0].text.endswith("with resnet18, 2 seeds")
    assert "a band from the lowest to the highest" in page.caption("knn")
    place = next(at for at, element in enumerate(page.elements) if element.attributes.get("id") == "knn")
    legend = next(element.text for element in page.elements[place:] if element.tag == "ul")
    assert legend.count("trained backbone") == legend.count("raw pixels") == 1
    assert f"{before + 0.05:.1%} ({100 * before:.1f} to {100 * after:.1f})" in page.html


def test_what_the_backbone_sees_or_why_not(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    page = reported(strange_run)
    maps = [element for element in page.all("svg") if element.attributes["aria-labelledby"].startswith("map-")]
    assert len(maps) == 2
    assert all("all 80 training pictures" in one.text for one in maps)
    near = [element.text for element in page.all("p") if "data-same" in element.attributes]
    assert re.search(r"\d+\.\d% before training and \d+\.\d% after it are of the same class; by chance 49\.4%", near[0])
    without = reported(copied(strange_run, tmp_path / "weightless"))  # copied without checkpoints
    assert "No map, neighbours or attention maps" in without.missing()
    assert "no checkpoint yet" in without.missing()


def test_of_many_combinations_some_tell_of_importance(reported: Reported, tmp_path: Path) -> None:
    line = (
        "--method dino --data shapes:112 --backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.depth 1 "
        "--method.prototypes 32 --plan.locals 4 --batch-size 16 --epochs 2 --workers 0 --tensorboard false "
        "--accelerator cpu --image-size 32"
    )
    run = tmp_path / "dino"
    assert main(["pretrain", *line.split(), "--out", str(run)]) == 0
    page = reported(run)
    assert {"importance", "iou-histogram", "lowest-iou", "extra-teacher-entropy", "preference"} <= set(page.figures())
    assert "2+2+8 drawn, 1+1+4 kept" in page.all("dl")[1].text
    assert "hardest of 280" in page.html


def test_several_runs_are_compared_with_the_first(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    other = pretrained(
        tmp_path / STRANGE_RUN, f"--data shapes:48 {SIMSIAM} --epochs 2 --knn-epochs 1 --policy random --telemetry 16"
    )
    for run, accuracy in ((strange_run, 0.5), (other, 0.375)):
        line = {"linear_top1": accuracy, "linear_rate": 0.1, "data": "a<b>c", "test_images": 7}
        (run / "results.jsonl").write_text(json.dumps(line) + "\n")
    try:
        page = reported(strange_run, other)
    finally:
        (strange_run / "results.jsonl").unlink()
    measured = [rows_of(run / "evaluation.csv") for run in (strange_run, other)]
    trained = [[float(row["value"]) for row in rows if row["name"] == "knn_top1"][-1] for rows in measured]
    assert page.values("knn_top1") == trained
    cells = [element for element in page.all("td") if element.attributes.get("data-result") == "linear top 1"]
    assert [cell.text for cell in cells] == ["50.0%", "37.5%−12.5 points"]
    assert not any("rate" in element.attributes.get("data-result", "") for element in page.elements)
    legend = next(element.text for element in page.all("ul") if element.path[-1] == "figure")
    # Told apart though their folders have one name.
    assert shortened(f"{strange_run.parent.name}/{STRANGE_RUN}") in legend
    assert shortened(f"{tmp_path.name}/{STRANGE_RUN}") in legend
    assert "policy" in next(element.text for element in page.all("table") if "Settings in which" in element.text)
    assert "candidates were not scored" in page.missing()
    assert len({element.attributes["data-run"] for element in page.elements if "data-run" in element.attributes}) == 2


def test_every_figure_names_its_test_images(strange_run: Path, reported: Reported, tmp_path: Path) -> None:
    """Of one run, of runs on other images, and of a run from a version that did not record how many they were."""
    sizes = {row["name"]: row["value"] for row in rows_of(strange_run / "evaluation.csv")}
    on = f"{sizes['knn_test_images']} test images ({STRANGE_DATA}, each left out in turn), kNN by the "
    old, other = copied(strange_run, tmp_path / "old"), tmp_path / "other"
    rows = (old / "evaluation.csv").read_text().splitlines(keepends=True)
    (old / "evaluation.csv").write_text("".join(row for row in rows if row.split(",")[2] not in SIZES))
    pretrained(other, f"--data shapes:48 {SIMSIAM} --epochs 2 --knn-epochs 1 --knn-bank 7 --telemetry 16")
    line = {"linear_top1": 0.5, "data": "/d/photos", "test_data": "/d/val", "test_images": 70, "box_ap": 0.25}
    line |= {"detection_test_data": "coco/val2017", "detection_test_images": 5, "detection_train_images": 9}
    (old / "results.jsonl").write_text(json.dumps(line) + "\n")

    page = reported(strange_run)
    assert on in page.caption("standing")
    assert on in page.caption("knn")
    assert on in page.caption("rank")
    assert any(on in element.text and "Measured during training, on" in element.text for element in page.all("caption"))
    page = reported(old)
    assert f"{STRANGE_DATA}, each left out in turn (from a version that did not record" in page.caption("knn")
    captions = [element.text for element in page.all("caption")]
    assert "Measured on photos, tested on val (70 images)" in captions
    assert "Measured on photos, tested on val2017 (5 images)" in captions
    page = reported(strange_run, other)
    few = "7 of 9 test images (the test split of shapes:48), kNN by the 7 nearest of 7 training images, drawn from 48"
    assert on in page.caption("standing")
    assert few in page.caption("standing")
    assert few in page.caption("knn")
    assert page.values("knn_test_images") == []  # sizes are no figures


def test_pages_are_replaced_and_nothing_else_is(
    strange_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(strange_run, tmp_path / "run", "telemetry")
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert said[0] == str(run / "report.html")
    sizes = {row["name"]: row["value"] for row in rows_of(run / "evaluation.csv")}
    on = (
        f"{sizes['knn_test_images']} test images ({STRANGE_DATA}, each left out in turn), kNN by the {sizes['knn_k']} "
        f"nearest of {sizes['knn_train_images']} training images"
    )
    assert said[1] == f"kNN accuracy, trained: {page.values('knn_top1')[0]:.1%}; last measurement, on {on}"
    assert said[2] == f"IoU of kept views: {page.values('iou_kept')[0]:.2f}; mean over all steps"
    assert said[3].startswith("Training time: ")
    assert not list(run.glob("*.part"))
    (run / "report.html").write_text(pages.MARK)
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["knn_top1"] == page.values("knn_top1")
    assert len((run / "report.html").read_text(encoding="utf-8")) > 10_000
    mine = tmp_path / "thesis.html"
    mine.write_text("<p>mine")
    for out, words in (
        (mine, "is no report of hardviews"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "x.html", "there is no folder"),
    ):
        assert main(["report", str(run), "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert mine.read_text() == "<p>mine"


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a run folder" in line
    assert main(["report"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_folder_of_a_comparison_says_where_its_runs_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "compare" / "runs" / "hardest-2-epochs-seed-0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    for folder, inside in (("compare", "runs/*/"), ("compare/runs", "*/")):
        assert main(["report", str(tmp_path / folder)]) == 2
        assert f"runs found in {tmp_path / folder}/{inside}; pass those folders" in capsys.readouterr().err


def test_missing_packages_are_named(
    strange_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hardviews.runs.report.find_spec", lambda name: None if name == "jinja2" else object())
    assert main(["report", str(strange_run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "jinja2 not installed; pip install 'hardviews[analysis]'" in line


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from hardviews.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=240)
    assert "--out" in done.stdout
