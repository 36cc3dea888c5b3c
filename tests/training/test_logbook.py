"""What a run says of itself on a disk that is full when it resumes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from hardviews.training.output.logbook import Logbook
from hardviews.training.output.run_folder import METRICS, RunFolder


def row(step: int) -> Mapping[str, float]:
    return dict.fromkeys(METRICS, 0.0) | {"step": step}


def test_rows_that_come_again_are_there_once_though_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    folder = RunFolder(tmp_path)
    logbook = Logbook(folder, said.append)
    logbook.metrics([row(step) for step in range(5)], row(4))
    logbook.measured(4, 1, {"knn_top1": 0.5}, "knn_top1 50.0%; on 10 images")

    def full(step: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "drop_after", full)
        logbook.drop_after(3)
        logbook.metrics([row(3)], row(3))
    assert said == [
        "after 1 epoch: knn_top1 50.0%; on 10 images",
        f"{folder.metrics_file}: No space left on device; training continues",
    ]
    logbook.metrics([row(4)], row(4))
    steps = [line.split(",")[0] for line in folder.metrics_file.read_text().splitlines()[1:]]
    assert steps == ["0", "1", "2", "3", "4"]
    assert folder.evaluations() == {}


def test_settings_that_cannot_be_written_down_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    config = {"backbone": {"name": "resnet18"}, "workers": 2}
    folder = RunFolder(tmp_path)
    folder.open(config)
    folder.open(config | {"workers": 8})

    def full(_: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        Logbook(folder, said.append).config()
    assert said == [f"{folder.config_file}: No space left on device; training continues"]
    assert folder.config() == config
