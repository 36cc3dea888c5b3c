"""Measures how much of a JPEG is present when its end is missing, for example after an interrupted copy.

libjpeg decodes such a file once an end marker is added. It fills missing blocks with mid-grey. If the last scan of a
progressive file is cut, missing blocks stay as the earlier scans left them. The image is compared with the one without
the last scan: the last block that differs is the last one present. Later blocks that the scan would not change look
like missing ones, and count as missing.

Only JPEGs are handled this way. Pillow reads a PNG without its last chunk. Decoders of other formats show no part, or
don't say which part, so files of these formats that are cut short are refused.
"""

import re
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

LEAST_SHOWN = 0.9  # fraction of the blocks that an image must have to be used
MOST_PIXELS = 22_369_620  # larger images are not examined: each is decoded three times and held twice

_END = b"\xff\xd9"
_NOISE = b"\x5a\xa5" * 32  # a decoder that expects more blocks takes this for blocks
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # anything else that begins with 0xff lies within a scan
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _LAST = 0xDA, 0xD9


class Shown(NamedTuple):
    """A JPEG with an end marker added, and the fraction of its blocks that are present."""

    data: bytes
    part: float


class _Scan(NamedTuple):
    """The last scan of a JPEG: the byte where its blocks start, and the pixels that a block covers. A block has all
    components of the scan."""

    start: int
    width: int
    height: int


def shown(data: bytes) -> Shown | None:
    """How much of a JPEG without an end can be shown.

    Zeros at its end count as missing: they fill a file that was allocated and not completely written.

    Args:
        data: the file.

    Returns:
        None if the file is no JPEG, has an end, lacks whole scans, or has more than ``MOST_PIXELS``.

    Raises:
        Exception: any kind, by Pillow, if the file is damaged in another way.
    """
    data = data.rstrip(b"\0\xff")
    scan = _last_scan(data)
    picture = None if scan is None else _loaded(data + _END)
    if scan is None or picture is None:
        return None
    # If blocks are missing, adding blocks changes the image; a restart marker may have to come between them.
    restarts = _RESTART.findall(data, scan.start)
    due = bytes([0xFF, 0xD0 + ((restarts[-1][1] + 1) % 8 if restarts else 0)])
    if picture == _loaded(data + _NOISE + due + _NOISE + _END):
        return Shown(data + _END, 1.0)
    before = _loaded(data[: scan.start] + _END)
    assert before is not None
    return Shown(data + _END, _part(picture, before, scan))


def mark(picture: Tensor, part: float) -> Tensor:
    """Marks an image as cut short, for ``said_of``."""
    picture.cut_short = f"cut short, {int(100 * part)} % shown"  # type: ignore[attr-defined]
    return picture


def said_of(picture: Tensor) -> str:
    """The message about a decoded image that is cut short; empty for all others."""
    said: str = getattr(picture, "cut_short", "")
    return said


def _last_scan(data: bytes) -> _Scan | None:
    """None if the file is no JPEG or has an end, or if a component lacks its full precision."""
    if not data.startswith(b"\xff\xd8"):
        return None
    sampling: dict[int, tuple[int, int]] = {}  # component → its blocks across and down in an MCU
    precise: dict[int, set[int]] = {}  # component → coefficients whose last bit is in a scan
    scan: list[int] = []
    start, at = 0, 2
    while found := _MARKER.search(data, at):
        kind, at = data[found.end() - 1], found.end()
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        if kind == _LAST:
            return None
        if kind in _FRAMES:
            sampling = {body[k]: (body[k + 1] >> 4, body[k + 1] & 15) for k in range(6, len(body) - 2, 3)}
            precise = {component: set() for component in sampling}
        if kind == _SCAN and len(body) >= 6:
            scan, start = [component for component in body[1:-3:2] if component in sampling], at
            first, last, bits = body[-3:]
            for component in scan:
                precise[component].update(range(first, last + 1) if bits & 15 == 0 else ())
    if not scan or start > len(data) or any(len(coefficients) < 64 for coefficients in precise.values()):
        return None
    across, down = (max(counts) for counts in zip(*sampling.values(), strict=True))
    own_across, own_down = (1, 1) if len(scan) > 1 else sampling[scan[0]]
    return _Scan(start, 8 * across // max(own_across, 1), 8 * down // max(own_down, 1))


def _loaded(data: bytes) -> Image.Image | None:
    """The decoded image; None if it has too many pixels."""
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            return None
        image.load()
        return image


def _part(picture: Image.Image, before: Image.Image, scan: _Scan) -> float:
    """The fraction of the blocks up to the last one that the scan changed."""
    columns, rows = -(-picture.width // scan.width), -(-picture.height // scan.height)
    for row in reversed(range(rows)):
        box = (0, row * scan.height, picture.width, min((row + 1) * scan.height, picture.height))
        now, then = (np.atleast_3d(np.asarray(image.crop(box))) for image in (picture, before))  # [h, w, bands]
        # Pixels at the edges of blocks are left out: colour spreads to them from neighbouring blocks.
        changed = (now != then)[1:-1].any(axis=(0, 2)).nonzero()[0]
        changed = changed[~np.isin(changed % scan.width, (0, scan.width - 1))]
        if len(changed):
            return float(row * columns + changed[-1] // scan.width + 1) / (rows * columns)
    return 0.0
