"""Features of images that are given one by one: paths, PIL images, arrays, tensors."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage
from hardviews.data.sources.dataset import check_several, read_image
from hardviews.errors import InputError
from hardviews.evaluation.features import Preprocessing, encoded


class _Images:
    """Images of any kind, as a source."""

    name = "images"
    labels: Tensor | None = None
    class_names: list[str] | None = None
    native_size: int | None = None

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        raise NotImplementedError("nothing is kept of images given one by one")

    def path(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        return read_image(self.images[index], bounds, self.path(index))


def vectors_of(backbone: nn.Module, preprocessing: Preprocessing, images: Any, batch_size: int, workers: int) -> Tensor:
    """Features of images, float32 ``[N, D]`` on the CPU, in their order.

    Args:
        backbone: where its parameters are, the work is done; it is left as it was.
        preprocessing: of the images.
        images: N of them, as ``read_image`` takes them; one alone is an error, but for ``[B, ...]`` of an array.
        batch_size, workers: for speed only.

    Raises:
        InputError: there are none, or one can't be read.
    """
    if batch_size < 1 or workers < 0:
        raise InputError(f"batch_size {batch_size} and workers {workers} must be at least 1 and 0")
    if isinstance(images, str | bytes | Image.Image) or not hasattr(images, "__iter__"):
        raise InputError(f"images: got {type(images).__name__}; give a list of images")
    check_several(images, "images")
    form, shape = preprocessing.form, list(getattr(images, "shape", ()))
    if not form.converts and form.channels > 1 and len(shape) == 3:  # its rows would be taken for grey images
        raise InputError(f"images: got one image, of shape {shape}; give a list of images")
    source = _Images(images if isinstance(images, list | tuple) else list(images))
    if not len(source):
        raise InputError("images: none given")
    parts: list[Tensor] = []
    done = 0
    with exact_features():
        for part in encoded(backbone, source, preprocessing, batch_size=batch_size, workers=workers):
            if part.ids.tolist() != list(range(done, min(done + batch_size, len(source)))):
                break  # one was left out
            parts.append(part.vectors)
            done += len(part.ids)
    for index in range(done, len(source)):
        try:
            source.read(index, Bounds(form=form))
        except UnreadableImage as error:
            raise InputError(f"images: {error}") from None
    return torch.cat(parts)


def exact_features() -> AbstractContextManager[None]:
    """Convolutions in all bits of float32, of which NVIDIA's GPUs else leave out half."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


@contextmanager
def on_device(network: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """Within it the network is on a device; afterwards it is where it was.

    Raises:
        InputError: there is no such device.
    """
    weight = next(network.parameters(), None)
    if device is None or weight is None:
        yield
        return
    before = weight.device
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InputError(f"device: {device}: {str(error).splitlines()[0].partition('. ')[0]}") from error
    try:
        yield
    finally:
        network.to(before)
