"""Pictures for the examples: tiles of the two photographs that scikit-learn brings. Put your own in their place."""

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate


def tiles(count: int, size: int = 48) -> Tensor:
    """``[count, 3, size, size]`` in 0..1: squares of 128 px at random places, shrunk."""
    photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1) / 255 for photo in load_sample_images().images]
    found = []
    for index in range(count):
        photo = photos[index % len(photos)]  # [3, 427, 640]
        y, x = (int(torch.randint(side - 128, ())) for side in photo.shape[1:])
        found.append(photo[:, y : y + 128, x : x + 128])
    return interpolate(torch.stack(found), size=size, mode="area")
