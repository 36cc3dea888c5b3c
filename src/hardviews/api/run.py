"""A pretraining run as its caller holds it: a folder, and what is read from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardviews.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PretrainedRun:
    """A run folder. It holds nothing in memory: each attribute reads the folder.

    Args:
        folder: of the run; also of one that another process has made, or that has not ended.

    Example:
        >>> import hardviews
        >>> run = hardviews.PretrainedRun("tests/fixtures/run-0.1")
        >>> run.metrics["loss"].shape
        (4,)
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds: figures by name, such as ``knn_top1``, ``steps`` and ``seconds``.

        Raises:
            InputError: there is no run in the folder, or it has not ended.
        """
        self._check()
        try:
            found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{self.folder}: no summary yet: the run has not ended") from None
        return found

    @property
    def metrics(self) -> "dict[str, NDArray[np.float64]]":
        """The columns of ``metrics.csv``, float64 ``[steps]`` each; NaN where a step has no such figure.

        ``pandas.DataFrame(run.metrics)`` makes a table of it, as ``pandas.read_csv(run.metrics_file)`` does. It is
        empty until the first steps are written.

        Raises:
            InputError: there is no run in the folder, or the file is damaged.
        """
        self._check()
        from hardviews.analysis.run import read_metrics

        return read_metrics(self.metrics_file)

    @property
    def metrics_file(self) -> Path:
        """``metrics.csv``, one row a step."""
        return self.folder / "metrics.csv"

    def _check(self) -> None:
        if not (self.folder / "config.yaml").is_file():
            raise InputError(f"{self.folder} is not a run folder: it has no config.yaml")
