"""Crop, resize, flip and blur of views: by matrices, or on a CPU by taps (the non-zero entries of the matrices)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot
from hardviews.views.resampling import as_matrix, blur_taps, kernel_at, resize_taps, taps_of

# Matrices process images in chunks of about this many 4-byte numbers: 12 MB on a CPU, so that a chunk stays in the
# cache; 2 GB elsewhere, which holds a usual batch and is small beside a step's activations.
CHUNK = {"cpu": 3 << 20}
CHUNK_ELSEWHERE = 1 << 29
FEW = 4  # channels; up to here torch permutes three dimensions faster than it transposes a matrix
TAP = 8  # 4-byte numbers per tap while it is computed in float64


def by_matrices(images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slot: Slot, out: Tensor) -> Tensor:
    """A view is ``R_y · image · R_xᵀ``, where R_y and R_x crop, resize, flip and blur. The longer axis is resized
    first. All views of a slot are computed at once, and nothing waits for a GPU.

    Args:
        images: B images.
        boxes: float64 ``[V, B, 4]``: x0, y0, x1, y1 in whole pixels; on the images' device, like all other tensors.
        flip: bool ``[V, B]``.
        sigma: float32 ``[V, B]``, standard deviation of the blur in pixels of the view.
        slot: gives interpolation and blur kernel.
        out: ``[V, B, C, side, side]``, receives the views, as levels 0..255 (``Pixels.levels``).

    Returns:
        The mean of every view's channels before its blur, 0..255, ``[V, B, C]``.
    """
    views, batch, channels, _, side = out.shape
    height, width = images.size.amax(0).tolist()
    ends = boxes.view(views, batch, 2, 2).permute(3, 1, 0, 2)  # start and end along x and y, [2, B, V, 2]
    mirrored = torch.stack([flip, torch.zeros_like(flip)]).transpose(1, 2)  # [2, B, V]
    # The widest filter that any crop can need, from shapes alone: reading the boxes would make a GPU wait.
    shrinking = max(height, width) / side
    # One image at a time on a CPU: products of other sizes round differently, and a view must not depend on the batch.
    at_once = 1 if out.device.type == "cpu" else views
    far, near = (1, 0) if height >= width else (0, 1)
    means = torch.empty(batch, views, channels, device=out.device)
    numbers = channels * height * width + views * side * ((1 + channels) * min(height, width) + max(height, width))
    numbers += views * side * channels * side
    numbers += 2 * views * side * TAP * taps_of(shrinking, slot.interpolation)
    step = max(CHUNK.get(out.device.type, CHUNK_ELSEWHERE) // numbers, 1)
    for begin in range(0, batch, step):
        part = slice(begin, begin + step)
        # [b, rows, C, columns]; rows are the longer axis
        pictures = images[part].padded().permute((0, 2, 1, 3) if far else (0, 3, 1, 2))
        count, rows, _, columns = pictures.shape
        if not images.form.plain:
            pictures = images.form.cut(pictures, 2).contiguous()
        lines = pictures.to(torch.float32, memory_format=torch.contiguous_format).view(count, rows, -1)
        start, end = ends[:, part].unbind(-1)
        taps = resize_taps(start, end - start, mirrored[:, part], side, slot.interpolation, shrinking)
        first = as_matrix(taps.source[far], taps.weight[far], rows)  # [b, V, side, rows]
        second = as_matrix(taps.source[near], taps.weight[near], columns)
        del taps
        if slot.photometric.blur_p > 0:
            kernel = kernel_at(slot.photometric.blur_kernel, slot.size, side)
            blur = as_matrix(*blur_taps(sigma.T[part, :, None], side, kernel), side)
            blurred = blur @ first, blur @ second
        else:
            blurred = first, second
        for v in range(0, views, at_once):
            some = slice(v, v + at_once)
            # The mean rows of both matrices before the blur, applied to the picture.
            along = torch.bmm(first[:, some].mean(2), lines).view(-1, channels, columns)
            across = second[:, some].mean(2).view(-1, columns, 1)
            means[part, some] = torch.bmm(along, across).view(count, -1, channels)
            half = torch.bmm(blurred[0][:, some].flatten(1, 2), lines).view(-1, side * channels, columns)
            made = torch.bmm(half, blurred[1][:, some].flatten(0, 1).mT).view(count, -1, side, channels, side)
            out[some, part] = made.permute(1, 0, 3, 2, 4) if far else made.permute(1, 0, 3, 4, 2)
    images.form.scale_(out, 2)
    return images.form.scale_(means).transpose(0, 1)


def by_taps(images: ImageBatch, boxes: Tensor, flip: Tensor, sigma: Tensor, slot: Slot, out: Tensor) -> Tensor:
    """Same as ``by_matrices``, image by image. A row of a view is a weighted sum of a few rows of the crop, which
    torch's embedding-bag kernel computes at memory speed. For columns the picture is transposed."""
    views, _, channels, _, side = out.shape
    means = torch.empty(*flip.shape, channels)
    pictures = [images.image(b).movedim(0, 2) for b in range(len(images))]  # [h, w, C]
    kind, kernel = slot.interpolation, kernel_at(slot.photometric.blur_kernel, slot.size, side)
    for v in range(views):
        length = boxes[v, :, 2:] - boxes[v, :, :2]
        zero = torch.zeros_like(length[:, 0])
        widest, highest = (length.amax(0) / side).tolist()
        columns = resize_taps(zero, length[:, 0], flip[v], side, kind, widest)
        rows = resize_taps(zero, length[:, 1], zero > 0, side, kind, highest)
        blur = blur_taps(sigma[v], side, kernel)
        of_channels = blur.source + side * torch.arange(channels)[:, None, None]
        blurred = ((sigma[v] > 0) & (slot.photometric.blur_p > 0)).tolist()
        for b, (x0, y0, x1, y1) in enumerate(boxes[v].int().tolist()):
            height, width = y1 - y0, x1 - x0
            down, across = taps_of(height / side, kind), taps_of(width / side, kind)
            crop = images.form.cut(pictures[b][y0:y1, x0:x1]).flatten(1)  # [h, w · C]
            shrunk = _weighted(crop, rows.source[b, :, :down], rows.weight[b, :, :down])
            if channels <= FEW:
                turned = shrunk.view(side, width, channels).permute(1, 2, 0).flatten(1)
            else:
                turned = shrunk.T.contiguous().view(width, -1)  # the same
            # [w, C · rows of the view]
            view = _weighted(turned, columns.source[b, :, :across], columns.weight[b, :, :across])
            means[v, b] = view.mean(0).view(channels, side).mean(1)
            if blurred[b]:
                view = _weighted(view, blur.source, blur.weight[b])
            out[v][b] = view.view(side, channels, side).permute(1, 2, 0)
            if blurred[b]:
                lines = out[v][b].view(channels * side, side)  # contiguous: strided ones take twenty times as long
                lines.copy_(_weighted(lines, of_channels.view(channels * side, -1), blur.weight[b]))
    images.form.scale_(out, 2)
    images.form.scale_(means)
    return means


def _weighted(lines: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of lines: ``[n, pixels]`` to ``[side, pixels]``. Index is ``[side, taps]``; weight has the same
    shape or ``[taps]``."""
    return F.embedding_bag(index, lines, per_sample_weights=weight.expand(index.shape), mode="sum")
