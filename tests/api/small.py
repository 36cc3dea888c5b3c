"""Runs of seconds, as calls and as command lines."""

import signal
from typing import Any

import numpy as np
from numpy.typing import NDArray

NET = {"name": "resnet18", "channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem": "imagenet"}
OPTIONS: dict[str, Any] = {
    "method": {"name": "simsiam", "dim": 16, "predictor_dim": 8},
    "backbone": NET,
    "image_size": 32,
    "batch_size": 16,
    "workers": 0,
    "tensorboard": False,
    "knn_k": 5,
    "quiet": True,
}
LINE = (
    "--method simsiam --method.dim 16 --method.predictor-dim 8 --backbone resnet18 --backbone.channels 8,8,16,16 "
    "--backbone.layers 1,1,1,1 --backbone.stem imagenet --image-size 32 --batch-size 16 --workers 0 "
    "--tensorboard false --knn-k 5"
)


class Pictures:
    """64 pictures of noise; reading one of them may interrupt the process."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (64, 40, 48, 3), np.uint8)
        self.reads, self.interrupts_at = 0, 0

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        self.reads += 1
        if self.reads == self.interrupts_at:
            signal.raise_signal(signal.SIGINT)
        pixels: NDArray[np.uint8] = self.pixels[index]
        return pixels
