"""A batch of decoded images of any sizes, packed in one buffer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hardviews.views.transfer import to_device


@dataclass(frozen=True)
class ImageBatch:
    """B RGB images of any sizes in one uint8 buffer, so that a batch is pinned and moved in one copy.

    Args:
        pixels: uint8 ``[sum of h·w·3]``: the images ``[h, w, 3]`` one after another.
        size: int64 ``[B, 2]``, height and width; always on the CPU, like ``index``.
        index: int64 ``[B]``, each image's index in the data set.
    """

    pixels: Tensor
    size: Tensor
    index: Tensor

    @classmethod
    def pack(cls, images: Sequence[Tensor], index: Sequence[int] | Tensor | None = None) -> Self:
        """Packs uint8 images ``[h, w, 3]``; ``index`` defaults to 0..B-1."""
        size = torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(-1, 2)
        pixels = torch.cat([image.reshape(-1) for image in images]) if images else torch.empty(0, dtype=torch.uint8)
        ids = torch.arange(len(images)) if index is None else torch.as_tensor(index, dtype=torch.int64)
        return cls(pixels, size, ids)

    def __len__(self) -> int:
        return self.size.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def offset(self) -> list[int]:
        """Start of every image in ``pixels``, then the end: B + 1 numbers."""
        return [0, *(self.size.prod(1) * 3).cumsum(0).tolist()]

    @property
    def uniform(self) -> bool:
        """Whether all images are of one size."""
        return bool((self.size == self.size[:1]).all())

    def image(self, b: int) -> Tensor:
        """Image b, uint8 ``[3, h, w]``: a view on the buffer, in channels-last strides."""
        offset, (height, width) = self.offset, self.size[b].tolist()
        return self.pixels[offset[b] : offset[b + 1]].view(height, width, 3).permute(2, 0, 1)

    def padded(self) -> Tensor:
        """All images as uint8 ``[B, 3, H, W]``, aligned at the top left; smaller ones repeat their last row and column.
        No copy if sizes are equal."""
        if self.uniform:
            height, width = self.size[0].tolist()
            return self.pixels.view(len(self), height, width, 3).permute(0, 3, 1, 2)
        height, width = self.size.amax(0).tolist()
        first = torch.tensor(self.offset[:-1])[:, None] // 3  # in pixels of the buffer
        sizes, first = to_device([self.size, first], self.device)
        last = sizes[:, :, None] - 1
        rows, columns = (torch.arange(n, device=self.device) for n in (height, width))
        start = torch.addcmul(first, torch.minimum(rows, last[:, 0]), sizes[:, 1:])  # of every row, [B, H]
        place = start[:, :, None] + torch.minimum(columns, last[:, 1])[:, None]  # [B, H, W]
        pixels = self.pixels.view(-1, 3).index_select(0, place.view(-1))
        return pixels.view(len(self), height, width, 3).permute(0, 3, 1, 2)

    def __getitem__(self, part: slice) -> Self:
        """A contiguous part of the batch, without a copy (step 1)."""
        start, stop, _ = part.indices(len(self))
        offset = self.offset
        return type(self)(self.pixels[offset[start] : offset[max(start, stop)]], self.size[part], self.index[part])

    def pin_memory(self) -> Self:
        return type(self)(self.pixels.pin_memory(), self.size, self.index)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Moves the pixels; sizes and indices stay on the CPU, where boxes are drawn from them."""
        return type(self)(self.pixels.to(device, non_blocking=non_blocking), self.size, self.index)
