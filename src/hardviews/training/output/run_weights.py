"""Reads a run's configuration and the weights of its backbone."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hardviews import methods
from hardviews.console import say
from hardviews.errors import InputError
from hardviews.training.distributed.sharded_state import unsharded
from hardviews.training.output.run_folder import RunFolder


def run_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """A run's configuration, its backbone's weights in the last checkpoint (the teacher's, if there is a teacher), and
    that checkpoint's step.

    Raises:
        InputError: there is no run, or no checkpoint yet.
    """
    run = RunFolder(folder)
    config = run.config()
    state, damaged = run.checkpoints.newest()
    if state is None:
        raise InputError(f"{folder}: no checkpoint yet ({run.checkpoints.last} is missing)")
    for line in damaged:
        say(f"{line}; using the one before it")
    prefix = f"{methods.find(config['method']['name']).evaluated}."
    weights = {
        key.removeprefix(prefix): unsharded(value) for key, value in state["method"].items() if key.startswith(prefix)
    }
    return config, weights, int(state["step"])
