"""Crop, resize, flip and blur of views: by matrices, or on a CPU by taps, which are a matrix without its zeros."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot
from hardviews.views.resampling import blur_matrix, blur_taps, kernel_at, resize_matrix, resize_taps, taps_of

# By matrices, images are taken in chunks of about this many pixels (the largest image of the batch counts for all),
# whose float copy takes 12 bytes each. On a CPU: 12 MB, so that a chunk stays near the cache while all its views are
# made. Elsewhere: 400 MB, enough to fill a GPU, and little beside a training step's activations.
CHUNK_PIXELS = {"cpu": 2**20}
CHUNK_PIXELS_ELSEWHERE = 2**25


def by_matrices(
    images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slots: list[Slot], out: list[Tensor]
) -> Tensor:
    """A view is ``R_y · image · R_xᵀ``, where R_y and R_x crop, resize, flip and blur. Nothing waits for a GPU.

    Args:
        images: B images.
        boxes: float64 ``[V, B, 4]``, x0, y0, x1, y1 in whole pixels, like all numbers on the images' device.
        flip: bool ``[V, B]``.
        sigma: float32 ``[V, B]``, of the blur, in pixels of the view.
        slots: of the V views: interpolation and blur kernel.
        out: V tensors ``[B, 3, side, side]``, which take the views, 0..255.

    Returns:
        The mean colour of every view before its blur, 0..255, ``[V, B, 3]``.
    """
    means = torch.empty(*flip.shape, 3, device=images.device)
    height, width = images.size.amax(0).tolist()
    # Of a flat picture the matrices are larger than itself.
    pixels = max(height * width, max(view.shape[-1] for view in out) * max(height, width))
    step = max(CHUNK_PIXELS.get(images.device.type, CHUNK_PIXELS_ELSEWHERE) // pixels, 1)
    for begin in range(0, len(images), step):
        part = slice(begin, begin + step)
        pictures = images[part].padded().to(torch.float32, memory_format=torch.contiguous_format)  # [b, 3, H, W]
        batch, _, height, width = pictures.shape
        for v, slot in enumerate(slots):
            side = out[v].shape[-1]
            start, length = boxes[v, part, :2], boxes[v, part, 2:] - boxes[v, part, :2]
            ahead = torch.zeros_like(flip[v, part])
            rows = resize_matrix(start[:, 1], length[:, 1], ahead, height, side, slot.interpolation)  # [b, h, H]
            columns = resize_matrix(start[:, 0], length[:, 0], flip[v, part], width, side, slot.interpolation)
            # The mean rows of both matrices, applied to the picture.
            lines = pictures.view(batch, 3 * height, width)
            along = torch.bmm(lines, columns.mean(1)[:, :, None]).view(batch, 3, height)
            means[v, part] = (along @ rows.mean(1)[:, :, None])[:, :, 0]
            if slot.photometric.blur_p > 0:
                blur = blur_matrix(sigma[v, part], side, kernel_at(slot.photometric.blur_kernel, slot.size, side))
                rows, columns = blur @ rows, blur @ columns
            if height <= width:  # shorten the longer axis first
                half = torch.bmm(lines, columns.mT).view(batch, 3, height, side)
                torch.matmul(rows[:, None], half, out=out[v][part])
            else:
                half = rows[:, None] @ pictures  # [b, 3, h, W]
                torch.bmm(half.view(batch, 3 * side, width), columns.mT, out=out[v][part].view(batch, 3 * side, side))
    return means


def by_taps(
    images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slots: list[Slot], out: list[Tensor]
) -> Tensor:
    """As ``by_matrices``, image by image: a row of a view is a weighted sum of a few rows of the crop, which is what
    torch's kernel of embedding bags does, at the speed of memory. For columns the picture is turned."""
    means = torch.empty(*flip.shape, 3)
    pictures = [images.image(b).movedim(0, 2) for b in range(len(images))]  # [h, w, 3]
    for v, slot in enumerate(slots):
        side, kind = out[v].shape[-1], slot.interpolation
        length = boxes[v, :, 2:] - boxes[v, :, :2]
        zero = torch.zeros_like(length[:, 0])
        widest, highest = (length.amax(0) / side).tolist()
        columns = resize_taps(zero, length[:, 0], flip[v], side, kind, widest)
        rows = resize_taps(zero, length[:, 1], zero > 0, side, kind, highest)
        blur = blur_taps(sigma[v], side, kernel_at(slot.photometric.blur_kernel, slot.size, side))
        of_channels = blur.source + side * torch.arange(3)[:, None, None]
        blurred = ((sigma[v] > 0) & (slot.photometric.blur_p > 0)).tolist()
        for b, (x0, y0, x1, y1) in enumerate(boxes[v].int().tolist()):
            height, width = y1 - y0, x1 - x0
            down, across = taps_of(height / side, kind), taps_of(width / side, kind)
            crop = pictures[b][y0:y1, x0:x1].float()  # [h, w, 3]
            shrunk = _weighted(crop.flatten(1), rows.source[b, :, :down], rows.weight[b, :, :down])
            turned = shrunk.view(side, width, 3).permute(1, 2, 0).flatten(1)  # [w, 3 · rows of the view]
            view = _weighted(turned, columns.source[b, :, :across], columns.weight[b, :, :across])
            means[v, b] = view.mean(0).view(3, side).mean(1)
            if blurred[b]:
                view = _weighted(view, blur.source, blur.weight[b])
            out[v][b] = view.view(side, 3, side).permute(1, 2, 0)
            if blurred[b]:
                lines = out[v][b].view(3 * side, side)  # contiguous: strided ones take twenty times as long
                lines.copy_(_weighted(lines, of_channels.view(3 * side, -1), blur.weight[b]))
    return means


def _weighted(lines: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sums of weighted lines, ``[n, pixels]`` to ``[side, pixels]``: index ``[side, taps]``, weight the same or
    ``[taps]``."""
    return F.embedding_bag(index, lines, per_sample_weights=weight.expand(index.shape), mode="sum")
