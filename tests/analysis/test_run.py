"""A run folder as it is read: whole, cut short, or with next to nothing in it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hardviews.analysis.comparison import selects
from hardviews.analysis.run import read, read_all, short_names
from hardviews.errors import InputError

CONFIG = "method:\n  name: simclr\nepochs: 3\n"
METRICS = """step,epoch,loss,iou_kept,iou_random,seconds_data,seconds_render,seconds_score,seconds_train
0,0,4.0,0.5,0.6,1,2,3,4
1,0,3.0,,,1,2,3,4
2,1,2.0,0.3,0.5,1,2,3,4
"""


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in (
        {"config.yaml": CONFIG} | {name.replace("__", "."): text for name, text in files.items()}
    ).items():
        (path / name).write_text(text)
    return path


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "run", metrics__csv=METRICS, summary__json='{"seconds": 1}',
        evaluation__csv="step,epoch,name,value\n0,0,knn_top1,0.1\n2,1,knn_top1,0.4\n0,0,knn_top1_pixels,0.2\n",
        results__jsonl='{"linear_top1": 0.5}\n{"linear_to',
    )  # fmt: skip
    run = read(folder)
    assert (run.name, run.steps, run.steps_per_epoch, run.epochs, run.seconds) == ("run", 3, 2, 1.5, 30)
    assert run.spent() == {"data": 3, "render": 6, "score": 9, "train": 12}
    assert run.mean("iou_kept") == pytest.approx(0.4)
    assert [x.tolist() for x in run.by_epoch("loss")] == [[1, 2], [3.5, 2]]
    assert [x.tolist() for x in run.by_epoch("iou_random")] == [[1, 2], [0.6, 0.5]]
    assert np.isnan(run.column("no such")).all()
    assert (run.first("knn_top1"), run.last("knn_top1")) == (0.1, 0.4)
    # What was measured once, before the first step, is no result of training.
    assert (run.first("knn_top1_pixels"), run.last("knn_top1_pixels")) == (0.2, None)
    assert run.results == [{"linear_top1": 0.5}]
    assert run.summary == {"seconds": 1}
    assert run.telemetry is None
    assert "no telemetry" in run.without


def test_what_is_cut_off_or_missing_is_passed_over(tmp_path: Path) -> None:
    cut = read(folder_of(tmp_path / "cut", metrics__csv=METRICS + "3,1,1.", summary__json='{"sec'))
    assert (cut.steps, cut.summary) == (3, None)
    bare = read(folder_of(tmp_path / "bare"))
    assert (bare.steps, bare.seconds, bare.epochs, bare.evaluations, bare.results) == (0, 0, 0, {}, [])
    assert np.isnan(bare.mean("loss"))
    headed = read(folder_of(tmp_path / "headed", metrics__csv=METRICS.splitlines()[0] + "\n"))
    assert headed.steps == 0


def test_telemetry_that_is_damaged_is_a_reason(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    (folder / "telemetry").mkdir()
    (folder / "telemetry" / "epoch-0000.npz").write_bytes(b"PK")
    (folder / "telemetry" / "about.json").write_text(json.dumps({"format": 99}))
    assert "another version" in read(folder).without


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run folder.*config\.yaml is missing"):
        read(tmp_path)
    for text in ("{", "just words", "data: shapes\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            read(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "metrics.csv").write_text("step,loss\n0,many\n")
    with pytest.raises(InputError, match=r"metrics\.csv is damaged"):
        read(tmp_path)


def test_names_are_as_short_as_they_may_be(tmp_path: Path) -> None:
    assert short_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert short_names([Path("/a/x/run"), Path("/a/y/run"), Path("/b")]) == ["x/run", "y/run", "b"]
    folders = [folder_of(tmp_path / name / "run") for name in "ab"]
    runs = read_all([*folders, tmp_path / "a" / ".." / "a" / "run"])
    assert [run.name for run in runs] == ["a/run", "b/run"]


def test_the_policy_is_named_only_where_views_were_selected() -> None:
    for draw, shown in ((4, True), (2, False)):
        run: Any = SimpleNamespace(slots=[{"draw": draw, "keep": 2}])
        assert selects(run) is shown
    assert selects(cast("Any", SimpleNamespace(slots=[])))  # of a run without telemetry nothing is known
