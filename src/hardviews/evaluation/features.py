"""Frozen features of a data set: the input of every protocol."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardviews.data.loading.in_order import in_order
from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.views.centre import CropMode, central_square, form_of_square
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels
from hardviews.wording import several

# Side to which images are shrunk for pixel-wise comparison.
PIXELS = 32


@dataclass(frozen=True)
class Features:
    """One row per readable image, in the order of the data set.

    Args:
        vectors: float32 ``[N, D]`` on the CPU: the backbone's output.
        labels: int64 ``[N]``; -1 if the data has none.
        rows: int64 ``[N]``, the image's index in the data set.
        tokens: for ViTs, if requested: float32 normed class tokens of the last blocks and the mean of the last block's
            patches, as in ``encode``.
        pixels: float32 ``[N, C·32·32]`` of the shrunk image, if requested.
    """

    vectors: Tensor
    labels: Tensor
    rows: Tensor
    tokens: Tensor | None = None
    pixels: Tensor | None = None

    def __getitem__(self, chosen: Tensor) -> "Features":
        """Some of the rows, by indices or a mask."""
        tokens, pixels = (None if part is None else part[chosen] for part in (self.tokens, self.pixels))
        return Features(self.vectors[chosen], self.labels[chosen], self.rows[chosen], tokens, pixels)

    @property
    def richest(self) -> Tensor:
        """The input of linear classifiers: ``tokens`` if there are any, else ``vectors``."""
        return self.vectors if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing for evaluation: resize, central crop, normalise. The pixels equal those of timm's transform with
    the same settings, which exported backbones carry.

    Args:
        image_size: side of the crop in pixels.
        mean, std: per channel, of pixels in 0..1.
        crop: side of the crop as a fraction of the resized image's shorter side; 1 for small sets, usually 0.875 for
            ImageNet.
        interpolation, crop_mode: as in ``central_square``.
        form: channels, type and range of values with which images are read.

    Raises:
        InputError: mean or std are not one number for each channel.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: CropMode = "center"
    form: Pixels = RGB

    def __post_init__(self) -> None:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != self.form.channels:
                raise InputError(
                    f"{name}: {several(len(numbers), 'number')} for {several(self.form.channels, 'channel')}; "
                    "give one for each"
                )


class EncodedBatch(NamedTuple):
    """A batch: image indices int64 ``[B]`` and features float32 ``[B, D]`` on the CPU, and if requested tokens and the
    network's input ``[B, C, S, S]``."""

    ids: Tensor
    vectors: Tensor
    tokens: Tensor | None
    images: Tensor


def encoded(
    backbone: nn.Module,
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    workers: int = 0,
    blocks: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[EncodedBatch]:
    """Features of every readable image in order, batch by batch; runs ``backbone`` in eval mode and restores it.

    Args:
        backbone: images to features ``[B, D]``; runs on the device of its parameters.
        source: images.
        preprocessing: of the run or of the pretrained weights.
        batch_size, workers: affect speed only.
        blocks: for a ViT, return tokens of this many of its last blocks.
        process, processes: this process takes part ``process`` of ``processes`` of the batches.
    """
    device = next(backbone.parameters()).device
    mean, std = (
        torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in (preprocessing.mean, preprocessing.std)
    )
    square = partial(
        central_square, side=preprocessing.image_size, crop=preprocessing.crop,
        interpolation=preprocessing.interpolation, mode=preprocessing.crop_mode, form=preprocessing.form,
    )  # fmt: skip
    batches = in_order(
        source, batch_size, workers=workers, shown=square, process=process, processes=processes,
        form=preprocessing.form, form_shown=form_of_square(preprocessing.form),
    )  # fmt: skip
    with evaluating(backbone):
        for images in batches:
            with torch.no_grad():
                batch = normalised(images.to(device), mean, std)
                vectors, tokens = encode(backbone, batch, blocks)
            yield EncodedBatch(
                images.index, vectors.float().cpu(), None if tokens is None else tokens.float().cpu(), batch
            )


def normalised(images: ImageBatch, mean: Tensor, std: Tensor) -> Tensor:
    """Converts images of one size to a network's input, float32 ``[B, C, h, w]``, as torchvision's ``ToTensor`` and
    ``Normalize`` do.

    Args:
        images: levels 0 to 255 (``form_of_square``), on the device of the result.
        mean, std: ``[C, 1, 1]`` on the same device, of pixels in 0..1.
    """
    pixels = images.padded().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return pixels.div_(255).sub_(mean).div_(std)


def extract(
    backbone: nn.Module,
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    workers: int = 0,
    blocks: int = 0,
    pixels: bool = False,
    on_batch: Callable[[int], None] | None = None,
    process: int = 0,
    processes: int = 1,
) -> Features:
    """Features of every readable image; runs ``backbone`` in eval mode and restores it.

    Args:
        backbone: images to features ``[B, D]``; runs on the device of its parameters.
        source: images.
        preprocessing: of the run or of the pretrained weights.
        batch_size, workers: affect speed only.
        blocks: for a ViT, return ``tokens`` of this many of its last blocks.
        pixels: also store every image at 32 x 32.
        on_batch: called with the number of images of every finished batch.
        process, processes: this process takes part ``process`` of ``processes`` of the batches; a part
            without images has D = 0.

    Raises:
        InputError: no image of the source can be read.
    """
    batches = -(-len(source) // batch_size)
    most = min(len(source), -(-batches // processes) * batch_size)
    kept: dict[str, Tensor] = {}  # [most, ...] each, filled from the start
    done = 0
    parts = encoded(
        backbone, source, preprocessing, batch_size=batch_size, workers=workers, blocks=blocks,
        process=process, processes=processes,
    )  # fmt: skip
    for part in parts:
        made = {"vectors": part.vectors, "rows": part.ids}
        if part.tokens is not None:
            made["tokens"] = part.tokens
        if pixels:
            made["pixels"] = nn.functional.adaptive_avg_pool2d(part.images, PIXELS).flatten(1)
        for name, rows in made.items():
            if name not in kept:
                kept[name] = torch.empty(most, *rows.shape[1:], dtype=rows.dtype)
            kept[name][done : done + len(rows)] = rows
        done += len(part.ids)
        if on_batch:
            on_batch(len(part.ids))
    if not done:
        if processes > 1:
            return Features(torch.empty(0, 0), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        raise InputError(f"{source.name}: no image can be read{why_unreadable(source, preprocessing.form)}")
    kept = {name: rows[:done] for name, rows in kept.items()}
    labels = torch.full((done,), -1) if source.labels is None else source.labels[kept["rows"]]
    return Features(labels=labels, **kept)


def why_unreadable(source: ImageSource, form: Pixels) -> str:
    """Why the first image of a source can't be read, as the end of a sentence; empty if it can, or there is none."""
    try:
        source.read(0, Bounds(form=form))
    except UnreadableImage as error:
        return f"; the first: {error}"
    except IndexError:
        pass
    return ""


def has_tokens(backbone: nn.Module) -> bool:
    """Whether it is a plain timm Vision Transformer, whose last blocks can be read."""
    wanted = ("forward_intermediates", "forward_head", "num_prefix_tokens", "blocks")
    return all(hasattr(backbone, name) for name in wanted)


def encode(backbone: nn.Module, images: Tensor, blocks: int = 0) -> tuple[Tensor, Tensor | None]:
    """A backbone's features, and for a ViT the input of linear classifiers (Caron et al., "DINO", ICCV 2021, section
    4.1 and appendix F.2).

    Returns:
        Features ``[B, D]``, and for a ViT tokens ``[B, (n + 1) D]``: the class tokens of the last n = ``blocks`` blocks
        (or all, if there are fewer) and the mean of the last block's patches. Without class tokens: the mean patches of
        the n blocks, ``[B, n D]``.
    """
    if not blocks or not has_tokens(backbone):
        features: Tensor = backbone(images)
        return features, None
    vit: Any = backbone
    prefixed = vit.num_prefix_tokens > 0
    last, layers = vit.forward_intermediates(
        images, indices=min(blocks, len(vit.blocks)), norm=True, return_prefix_tokens=prefixed, output_fmt="NLC"
    )
    if prefixed:
        tokens = [prefix[:, 0] for _, prefix in layers] + [layers[-1][0].mean(1)]
    else:
        tokens = [layer.mean(1) for layer in layers]
    return vit.forward_head(last), torch.cat(tokens, 1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Context with the network in eval mode; restores the mode of every module."""
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
