"""Loggers besides the CSV files: TensorBoard, Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions


class Logger(Protocol):
    def log(self, values: Mapping[str, float], step: float) -> None: ...
    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder; hides events of steps that are repeated.

    Args:
        folder: of the run.
        done: steps done where the run starts or resumes.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder, purge_step=done + 1)

    def log(self, values: Mapping[str, float], step: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, int(step))

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run in a user's project, whose id is the run folder's name, so that a resumed run stays one run."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError("wandb: not installed; pip install 'hardviews[wandb]'") from error
        self._image: Callable[[Any], Any] = lambda picture: wandb.Image(picture)
        self._run: Any = wandb.init(project=project, id=folder.name, resume="allow", dir=folder, config=dict(config))

    def log(self, values: Mapping[str, float], step: float) -> None:
        self._run.log(dict(values), step=int(step))

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self._run.log({name: self._image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


def create_loggers(options: PretrainOptions, folder: Path, config: Mapping[str, Any], step: int) -> list[Logger]:
    """The requested loggers, for a run that starts or resumes at a step."""
    loggers: list[Logger] = []
    if options.wandb is not None:
        loggers.append(WeightsAndBiases(options.wandb, folder, config))
    if options.tensorboard:
        loggers.append(TensorBoard(folder, step))
    return loggers
