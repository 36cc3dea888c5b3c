"""A batch of decoded images of any sizes, packed in one buffer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.transfer import to_device


@dataclass(frozen=True)
class ImageBatch:
    """B images of any sizes in one buffer, so that a batch is pinned and moved in one copy.

    Args:
        pixels: ``[sum of h·w·C]``: the images ``[h, w, C]`` one after another, 8-bit RGB unless ``form`` says
            otherwise.
        size: int64 ``[B, 2]``, height and width; always on the CPU, like ``index``.
        index: int64 ``[B]``, each image's index in the data set.
        form: channels, type and range of values.
    """

    pixels: Tensor
    size: Tensor
    index: Tensor
    form: Pixels = RGB

    @classmethod
    def pack(
        cls, images: Sequence[Tensor], index: Sequence[int] | Tensor | None = None, form: Pixels | None = None
    ) -> Self:
        """Packs images ``[h, w, C]`` of one type.

        Args:
            images: of any sizes.
            index: by default 0..B-1.
            form: by default that of the first image, with the whole range of its type (``Pixels.of``).
        """
        size = torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(-1, 2)
        form = form or (Pixels.of(images[0]) if len(images) else RGB)
        for image in images:
            if image.shape[2] != form.channels or image.dtype != form.torch_dtype:
                raise InputError(
                    f"an image has {image.shape[2]} channels of {str(image.dtype).removeprefix('torch.')}; those of "
                    f"its batch have {form.channels} of {form.dtype}"
                )
        flat = [image.reshape(-1) for image in images] or [torch.empty(0, dtype=form.torch_dtype)]
        pixels = torch.cat(flat)
        ids = torch.arange(len(images)) if index is None else torch.as_tensor(index, dtype=torch.int64)
        return cls(pixels, size, ids, form)

    def __len__(self) -> int:
        return self.size.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def offset(self) -> list[int]:
        """Start of every image in ``pixels``, then the end: B + 1 numbers."""
        return [0, *(self.size.prod(1) * self.form.channels).cumsum(0).tolist()]

    @property
    def uniform(self) -> bool:
        """Whether all images are of one size."""
        return bool((self.size == self.size[:1]).all())

    def image(self, b: int) -> Tensor:
        """Image b as stored, ``[C, h, w]``: a view on the buffer, in channels-last strides."""
        offset, (height, width) = self.offset, self.size[b].tolist()
        return self.pixels[offset[b] : offset[b + 1]].view(height, width, -1).permute(2, 0, 1)

    def padded(self) -> Tensor:
        """All images as stored, ``[B, C, H, W]``, aligned at the top left; smaller ones repeat their last row and
        column. No copy if sizes are equal."""
        if self.uniform:
            height, width = self.size[0].tolist()
            return self.pixels.view(len(self), height, width, -1).permute(0, 3, 1, 2)
        height, width = self.size.amax(0).tolist()
        first = torch.tensor(self.offset[:-1])[:, None] // self.form.channels  # in pixels of the buffer
        sizes, first = to_device([self.size, first], self.device)
        last = sizes[:, :, None] - 1
        rows, columns = (torch.arange(n, device=self.device) for n in (height, width))
        start = torch.addcmul(first, torch.minimum(rows, last[:, 0]), sizes[:, 1:])  # of every row, [B, H]
        place = start[:, :, None] + torch.minimum(columns, last[:, 1])[:, None]  # [B, H, W]
        return self.gathered(place.view(-1)).view(len(self), height, width, -1).permute(0, 3, 1, 2)

    def gathered(self, places: Tensor) -> Tensor:
        """The pixels at some places of the buffer, as stored, ``[places, C]``."""
        pixels = self.pixels.view(-1, self.form.channels)
        if pixels.dtype == torch.uint16:  # which torch can't gather on a GPU
            return pixels.view(torch.int16).index_select(0, places).view(torch.uint16)
        return pixels.index_select(0, places)

    def __getitem__(self, part: slice) -> Self:
        """A contiguous part of the batch, without a copy (step 1)."""
        start, stop, _ = part.indices(len(self))
        offset = self.offset
        pixels = self.pixels[offset[start] : offset[max(start, stop)]]
        return type(self)(pixels, self.size[part], self.index[part], self.form)

    def pin_memory(self) -> Self:
        return replace(self, pixels=self.pixels.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Moves the pixels; sizes and indices stay on the CPU, where boxes are drawn from them."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))
