"""Thumbnails of a run: the followed originals, and sheets of them with the candidates' boxes."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

STORED_SIDE = 128  # maximum longer side of a thumbnail in pixels
SHOWN_SIDE = 160  # longer side of a picture on a sheet
GAP = 4
KEPT, OTHER, GROUND = (222, 45, 38), (190, 190, 190), (24, 24, 24)


def exists(file: Path) -> bool:
    """Whether a file exists; False if its folder can't be read."""
    try:
        return file.exists()
    except OSError:
        return False


def thumbnail(pixels: Tensor) -> bytes:
    """A picture, uint8 ``[3, h, w]``, as a PNG whose longer side is at most ``STORED_SIDE``; never enlarged."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())
    picture.thumbnail((STORED_SIDE, STORED_SIDE))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def with_boxes(picture: Image.Image, boxes: Sequence[Sequence[float]], kept: Iterable[int]) -> Image.Image:
    """Draws the candidates' boxes on a picture; kept ones are red and thick, so they stand out even without colour.

    Args:
        picture: of any size; the result's longer side is ``SHOWN_SIDE``.
        boxes: of all candidates, x0, y0, x1, y1 in 0..1.
        kept: ids of the kept candidates.
    """
    ratio, chosen = SHOWN_SIDE / max(picture.size), set(kept)
    width, height = (max(round(side * ratio), 1) for side in picture.size)
    shown = picture.convert("RGB").resize((width, height))
    draw = ImageDraw.Draw(shown)
    for id in sorted(range(len(boxes)), key=chosen.__contains__):  # kept boxes on top
        x0, y0, x1, y1 = boxes[id]
        corners = (x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1))
        draw.rectangle(corners, outline=KEPT if id in chosen else OTHER, width=3 if id in chosen else 1)
    return shown


def sheet(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Pictures side by side in rows, uint8 ``[h, w, 3]``."""
    columns, cell = ceil(sqrt(len(pictures))), SHOWN_SIDE + GAP
    canvas = Image.new("RGB", (columns * cell, ceil(len(pictures) / columns) * cell), GROUND)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        canvas.paste(picture, (column * cell + (cell - picture.width) // 2, row * cell + (cell - picture.height) // 2))
    return np.asarray(canvas)
