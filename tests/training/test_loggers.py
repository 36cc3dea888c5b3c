"""TensorBoard events are read back; Weights & Biases is given what it wants."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hardviews.errors import InputError
from hardviews.training.output.loggers import TensorBoard, WeightsAndBiases


def test_tensorboard_holds_every_step_once_after_going_on(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, 0)
    for step in range(4):
        first.log({"loss": 1.0 + step}, step + 1)
    first.close()
    again = TensorBoard(tmp_path, 2)  # a run that resumes after two steps
    for step in range(2, 5):
        again.log({"loss": 10.0 + step}, step + 1)
    again.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 12),
        (4, 13),
        (5, 14),
    ]


def test_wandb_gets_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            calls.append((values, step))

        def finish(self) -> None:
            calls.append("finish")

    def init(**keywords: Any) -> Run:
        calls.append(keywords)
        return Run()

    module = ModuleType("wandb")
    monkeypatch.setattr(module, "init", init, raising=False)
    monkeypatch.setattr(module, "Image", lambda picture: ("image", picture.shape), raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    logger = WeightsAndBiases("project", tmp_path / "run", {"epochs": 3})
    logger.log({"loss": 0.5}, 7)
    logger.show("gallery", np.zeros((4, 6, 3), np.uint8), 8)
    logger.close()
    started, logged, shown, finished = calls
    assert shown == ({"gallery": ("image", (4, 6, 3))}, 8)
    assert (started["project"], started["id"], started["config"]) == ("project", "run", {"epochs": 3})
    assert (logged, finished) == (({"loss": 0.5}, 7), "finish")


def test_missing_wandb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install"):
        WeightsAndBiases("project", tmp_path, {})
