"""Features kept on disk, so that evaluations that follow need not make them again."""

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

FORMAT = 4  # of what is kept; another number makes all features anew
log = logging.getLogger(__name__)


class FeatureCache:
    """Features in a folder, each set in a folder of its own, named by all that they depend on.

    A folder that can't be written to stops nothing: features are then made and not kept.

    Args:
        folder: of all of them.
        network: what makes the backbone again but for its weights, such as its name and arguments.
    """

    def __init__(self, folder: Path, network: str = "") -> None:
        self.folder, self.network = folder, network

    def key(self, backbone: nn.Module, source: ImageSource, preprocessing: Preprocessing, precision: str) -> str:
        """Of the weights, the architecture, the data, and how images are made ready."""
        digest = hashlib.blake2b(digest_size=16)
        settings = (FORMAT, self.network, str(backbone), source.identity(), asdict(preprocessing), precision)
        digest.update(repr(settings).encode("utf-8", "surrogateescape"))
        for name, value in backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def get(self, key: str, blocks: int, make: Callable[[], Features]) -> Features:
        """What is kept under a key, or what ``make`` makes, which is then kept.

        Args:
            blocks: of how many blocks tokens are wanted; 0 for none, which those that have some serve as well.
        """
        kept = self._read(key, blocks)
        if kept is not None:
            return kept
        made = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix=".", suffix=".part") as part:
                whole = Path(part) / key
                whole.mkdir()
                for name, value in _arrays(made, blocks).items():
                    np.save(whole / f"{name}.npy", value.numpy())
                shutil.rmtree(self.folder / key, ignore_errors=True)  # of other blocks, or damaged
                with suppress(FileExistsError):  # somebody else has just kept the same
                    whole.rename(self.folder / key)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                log.warning("%s: features can't be kept (%s)", self.folder, error.strerror or error)
        return made

    def _read(self, key: str, blocks: int) -> Features | None:
        folder = self.folder / key
        if not folder.is_dir():
            return None
        wanted = ["vectors", "rows"] + ([f"tokens-{blocks}"] if blocks else [])
        try:
            # Mapped: what is larger than memory is read as it is needed.
            arrays = [torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in wanted]
        except (OSError, ValueError, EOFError):  # damaged, or without these tokens: made anew
            return None
        unknown = torch.full((len(arrays[1]),), -1)
        return Features(arrays[0], unknown, arrays[1], arrays[2] if blocks else None)


def _arrays(features: Features, blocks: int) -> dict[str, Tensor]:
    found = {"vectors": features.vectors, "rows": features.rows}
    return found if features.tokens is None else found | {f"tokens-{blocks}": features.tokens}
