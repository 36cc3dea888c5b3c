"""A cache of features on disk, for later evaluations."""

import errno
import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from hardviews.data.sources import ImageSource
from hardviews.evaluation.features import Features, Preprocessing
from hardviews.views.pixels import RGB

FORMAT = 4  # of the cached files; changing it invalidates them all
log = logging.getLogger(__name__)


class FeatureCache:
    """Stores sets of features in one folder each, named by everything they depend on.

    If the folder can't be written to, features are computed and not stored.

    Args:
        folder: the cache.
        network: identifies the backbone apart from its weights, for example by name and arguments.
    """

    def __init__(self, folder: Path, network: str = "") -> None:
        self.folder, self.network = folder, network

    def key(self, backbone: nn.Module, source: ImageSource, preprocessing: Preprocessing, precision: str) -> str:
        """Hashes the weights, the architecture, the data and the preprocessing."""
        digest = hashlib.blake2b(digest_size=16)
        ready = asdict(preprocessing)
        if preprocessing.form == RGB:  # so that features from before there were other forms are still found
            del ready["form"]
        settings = (FORMAT, self.network, str(backbone), source.identity(), ready, precision)
        digest.update(repr(settings).encode("utf-8", "surrogateescape"))
        for name, value in backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def get(self, key: str, blocks: int, make: Callable[[], Features]) -> Features:
        """Features stored under a key; if there are none, computes them with ``make`` and stores them.

        Args:
            blocks: number of blocks whose tokens are needed; 0 accepts features with any tokens.
        """
        kept = self._read(key, blocks)
        if kept is not None:
            return kept
        made = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix=".", suffix=".part") as part:
                complete = Path(part) / key
                complete.mkdir()
                for name, value in _arrays(made, blocks).items():
                    np.save(complete / f"{name}.npy", value.numpy())
                shutil.rmtree(self.folder / key, ignore_errors=True)  # has other blocks, or is damaged
                with suppress(FileExistsError):  # another process has just stored the same
                    complete.rename(self.folder / key)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                log.warning("%s: features can't be cached (%s)", self.folder, error.strerror or error)
        return made

    def _read(self, key: str, blocks: int) -> Features | None:
        folder = self.folder / key
        if not folder.is_dir():
            return None
        wanted = ["vectors", "rows"] + ([f"tokens-{blocks}"] if blocks else [])
        try:
            # Memory-mapped: features larger than memory are read as needed.
            arrays = [torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in wanted]
        except (OSError, ValueError, EOFError):  # damaged, or without these tokens: compute again
            return None
        unknown = torch.full((len(arrays[1]),), -1)
        return Features(arrays[0], unknown, arrays[1], arrays[2] if blocks else None)


def _arrays(features: Features, blocks: int) -> dict[str, Tensor]:
    found = {"vectors": features.vectors, "rows": features.rows}
    return found if features.tokens is None else found | {f"tokens-{blocks}": features.tokens}
