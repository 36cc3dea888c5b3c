"""Features kept on disk, so that evaluations that follow need not make them again."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hardviews.data.sources import ImageSource
from hardviews.evaluation.features import Features, Preprocessing

FORMAT = 1  # of what is kept; another number makes all features anew
log = logging.getLogger(__name__)


class FeatureCache:
    """Features in a folder, each set in a folder of its own, named by all that they depend on.

    A folder that can't be written to stops nothing: features are then made and not kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(backbone: nn.Module, source: ImageSource, preprocessing: Preprocessing, blocks: int, precision: str) -> str:
        """Of the weights, the architecture, the data, and how images are made ready."""
        digest = hashlib.blake2b(digest_size=16)
        settings = (FORMAT, str(backbone), source.identity(), asdict(preprocessing), blocks, precision)
        digest.update(repr(settings).encode("utf-8", "surrogateescape"))
        for name, value in backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def get(self, key: str, make: Callable[[], Features]) -> Features:
        """What is kept under a key, or what ``make`` makes, which is then kept."""
        kept = self._read(key)
        if kept is not None:
            return kept
        made = make()
        part = self.folder / f"{key}.{os.getpid()}.part"
        try:
            part.mkdir(parents=True)
            for name, value in _arrays(made).items():
                np.save(part / f"{name}.npy", value.numpy())
            part.replace(self.folder / key)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            log.warning("%s: features can't be kept (%s)", self.folder, error.strerror or error)
        return made

    def _read(self, key: str) -> Features | None:
        folder = self.folder / key
        if not folder.is_dir():
            return None
        try:
            # Mapped: what is larger than memory is read as it is needed.
            arrays = {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in folder.glob("*.npy")}
            unknown = torch.full((len(arrays["rows"]),), -1)
            return Features(arrays["vectors"], unknown, arrays["rows"], arrays.get("tokens"))
        except (OSError, ValueError, KeyError, EOFError):  # damaged: made anew
            shutil.rmtree(folder, ignore_errors=True)
            return None


def _arrays(features: Features) -> dict[str, Tensor]:
    found = {"vectors": features.vectors, "rows": features.rows}
    return found if features.tokens is None else found | {"tokens": features.tokens}
