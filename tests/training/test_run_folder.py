"""What is kept in a run folder, and what may go into one."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hardviews.errors import InputError
from hardviews.training.output.run_folder import RunFolder

CONFIG = {"epochs": 3, "mean": (0.1, 0.2, 0.3), "backbone": {"name": "resnet18"}, "workers": 2}


def opened(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.check(CONFIG, 0)
    folder.open(CONFIG)
    return folder


def test_checking_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "run").check(CONFIG, 0)
    assert not list(tmp_path.iterdir())


def test_the_same_configuration_may_go_on(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    folder.check(CONFIG, 0)
    folder.check(CONFIG | {"workers": 8}, 0)  # how, not what
    folder.check(CONFIG | {"telemetry": 10, "gallery": 0}, 0)  # of which older runs did not know
    assert folder.config()["mean"] == [0.1, 0.2, 0.3]


def test_a_run_that_goes_on_writes_down_what_it_now_uses(tmp_path: Path) -> None:
    opened(tmp_path / "run")
    now, folder = CONFIG | {"workers": 8, "knn_bank": 5}, RunFolder(tmp_path / "run")
    folder.check(now, 0)
    folder.open(now)
    assert folder.config()["workers"] == 2  # until it is known that it may continue
    folder.update_config()
    assert folder.config() == {**now, "mean": [0.1, 0.2, 0.3]}
    assert sorted(file.name for file in folder.path.iterdir()) == ["checkpoints", "config.yaml"]


def test_another_configuration_is_refused_naming_what_differs(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    with pytest.raises(InputError, match="epochs is 3 there and 4 here") as caught:
        folder.check(CONFIG | {"epochs": 4}, 0)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--backbone is resnet18 there and resnet34 here; give another folder"):
        folder.check(CONFIG | {"backbone": {"name": "resnet34"}}, 0)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files"):
        RunFolder(tmp_path / "other").check(CONFIG, 0)
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "other" / "thesis.tex").check(CONFIG, 0)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    def usage(_: Any) -> Usage:
        return Usage(5 << 20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(InputError, match=r"5 MiB free.* need 7 MiB"):
        RunFolder(tmp_path / "run").check(CONFIG, 7 << 20)
    assert not list(tmp_path.iterdir())
    there = RunFolder(tmp_path / "there")
    there.open(CONFIG)
    there.check(CONFIG, 7 << 20)  # has checkpoints, and resumes


def test_a_disk_that_fills_while_a_run_is_begun_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def half(file: Path, text: str, **more: Any) -> int:
        write(file, text[:20], **more)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", half)
        with pytest.raises(InputError, match="can't be written: No space left on device"):
            opened(tmp_path / "run")
    (tmp_path / "run" / "config.part").write_text("killed meanwhile")
    opened(tmp_path / "run")


def test_a_run_whose_last_measurement_failed_claims_no_result(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    folder.append_metrics([{"step": step, "epoch": 0, "loss": 0.5} for step in range(6)])
    folder.append_evaluation(0, 0, {"knn_top1": 0.1, "knn_top1_pixels": 0.3})
    folder.append_evaluation(4, 1, {"knn_top1": 0.2})
    found = {name: value for name, value in folder.summary().items() if name.startswith("knn")}
    assert found == {"knn_top1_untrained": 0.1, "knn_top1_pixels": 0.3}
    folder.append_evaluation(6, 2, {"knn_top1": 0.4})
    assert folder.summary()["knn_top1"] == 0.4


def test_metrics_of_steps_run_again_are_dropped(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    folder.append_metrics([{"step": step, "epoch": 0, "loss": 0.5} for step in range(6)])
    folder.append_evaluation(0, 0, {"knn_top1": 0.1})
    folder.append_evaluation(4, 1, {"knn_top1": 0.2})
    folder.append_evaluation(6, 2, {"knn_top1": 0.3})
    with folder.metrics_file.open("a") as file:
        file.write("6,0,0.4")  # a row cut off by a crash
    folder.drop_after(4)
    rows = folder.metrics_file.read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2", "3"]
    # what was measured after 4 steps stands: the run continues from there
    assert folder.evaluations() == {"knn_top1": [(0, 0.1), (4, 0.2)]}


def test_missing_figures_are_empty_cells(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    folder.append_metrics([{"step": 0, "epoch": 0, "loss": 0.25, "cost_kept": float("nan")}])
    head, row = folder.metrics_file.read_text().splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["cost_kept"] == ""


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(tmp_path).config()


def test_metrics_of_an_earlier_version_keep_their_columns(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    folder.append_metrics([{"step": 0, "loss": 1.5}])
    folder.append_metrics([{"step": 1, "loss": 0.5, "overflowed": 1.0}])
    rows = [line.split(",") for line in folder.metrics_file.read_text().splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[rows[0].index("loss")] for row in rows[1:]] == ["1.5", "0.5"]
