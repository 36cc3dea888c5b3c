"""Frozen features of a data set: what every protocol starts from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardviews.data.loader import in_order
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.views.centre import centre_plan, centre_views
from hardviews.views.render import render

# Side to which images are shrunk to be compared pixel by pixel.
PIXELS = 32


@dataclass(frozen=True)
class Features:
    """One row per readable image, in the order of the data set.

    Args:
        vectors: float32 ``[N, D]``, on the CPU.
        labels: int64 ``[N]``.
        pixels: float32 ``[N, 3·32·32]`` of the shrunk image, where asked for.
    """

    vectors: Tensor
    labels: Tensor
    pixels: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> "Features":
        return Features(self.vectors[rows], self.labels[rows], None if self.pixels is None else self.pixels[rows])


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input for evaluation: resize, central crop, normalise.

    Args:
        image_size: side of the crop in pixels.
        mean, std: per channel, of pixels in 0..1.
        crop: side of the crop as a part of the resized image's shorter side; 1 for small sets, 0.875 as usual for
            ImageNet.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 0.875


class Encoded(NamedTuple):
    """A batch: numbers of its images int64 ``[B]`` and their features float32 ``[B, D]`` on the CPU, and the network's
    input ``[B, 3, S, S]`` where that is."""

    ids: Tensor
    vectors: Tensor
    images: Tensor


def encode(
    backbone: nn.Module,
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Encoded]:
    """Features of every readable image in order, batch by batch, by ``backbone`` in eval mode, which is left as it was.

    Args:
        backbone: images to features ``[B, D]``; where its parameters are, the work is done.
        source: images.
        preprocessing: of the run or of the pretrained weights.
        batch_size, workers: for speed only.
        process, processes: which of how many parts of the batches, one after the other.
    """
    device = next(backbone.parameters()).device
    plan = centre_plan(preprocessing.image_size, preprocessing.mean, preprocessing.std)
    training = [(module, module.training) for module in backbone.modules()]
    # Twice the network's size is more than any crop of the evaluation needs.
    batches = in_order(
        source, batch_size, workers=workers, decode_size=2 * preprocessing.image_size,
        process=process, processes=processes,
    )  # fmt: skip
    backbone.eval()
    try:
        for images in batches:
            with torch.no_grad():
                (batch,) = render(images.to(device), centre_views(images.size, preprocessing.crop), plan)
                vectors = backbone(batch).float().cpu()
            yield Encoded(images.index, vectors, batch)
    finally:
        for module, was_training in training:
            module.training = was_training


def extract(
    backbone: nn.Module,
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    workers: int = 0,
    pixels: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Features:
    """Features of every readable image by ``backbone`` in eval mode, which is left as it was.

    Args:
        backbone: images to features ``[B, D]``; where its parameters are, the work is done.
        source: labelled images.
        preprocessing: of the run or of the pretrained weights.
        batch_size, workers: for speed only.
        pixels: also keep every image at 32 x 32.
        on_batch: told the number of images of every batch done.

    Raises:
        InputError: the source has no labels, or no image can be read.
    """
    if source.labels is None:
        raise InputError(f"{source.name}: has no labels, which kNN needs; give class folders or a label column")
    vectors, ids, small = [], [], []
    for part in encode(backbone, source, preprocessing, batch_size=batch_size, workers=workers):
        vectors.append(part.vectors)
        ids.append(part.ids)
        if pixels:
            small.append(nn.functional.adaptive_avg_pool2d(part.images, PIXELS).flatten(1).cpu())
        if on_batch:
            on_batch(len(part.ids))
    if not ids:
        raise InputError(f"{source.name}: no image can be read")
    return Features(torch.cat(vectors), source.labels[torch.cat(ids)], torch.cat(small) if pixels else None)
