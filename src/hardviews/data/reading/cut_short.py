"""JPEGs whose end is missing, such as of a copy that was broken off: how much of the picture is there, by measurement.

libjpeg decodes such a file once it is given an end. It fills missing blocks with mid-grey; where the last of several
scans is cut (progressive files), they stay as the earlier scans left them. The picture is compared with what the file
gives without its last scan: the last block that differs is the last that is there. Blocks after it that the scan would
leave as they are can't be told from missing ones, and count as missing.

JPEG alone has such an end. Pillow reads a PNG without its last chunk. Other formats are refused where they are cut
short, since their decoders don't show a part, or don't say which.
"""

import re
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

LEAST_SHOWN = 0.9  # of the blocks, in a picture that is used all the same
MOST_PIXELS = 22_369_620  # of a picture that is looked at, since it is decoded three times and held twice

_END = b"\xff\xd9"
_NOISE = b"\x5a\xa5" * 32  # blocks, to a decoder that waits for more of them
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what else begins with 0xff lies within a scan
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _LAST = 0xDA, 0xD9


class Shown(NamedTuple):
    """A JPEG that was given an end, and the part of its blocks that it had without."""

    data: bytes
    part: float


class _Scan(NamedTuple):
    """The last scan of a JPEG: the place of its first block, and how many pixels a block covers. Of a scan of several
    components, a block is one of each."""

    start: int
    width: int
    height: int


def shown(data: bytes) -> Shown | None:
    """How much can be shown of a JPEG without an end.

    Zeros at its end count as missing: they fill up a file that was not written to its end.

    Args:
        data: the file.

    Returns:
        None where the file is no JPEG, has an end, lacks whole scans, or has more than ``MOST_PIXELS``.

    Raises:
        Exception: of any kind, by Pillow, where the file is damaged otherwise.
    """
    data = data.rstrip(b"\0\xff")
    scan = _last_scan(data)
    picture = None if scan is None else _loaded(data + _END)
    if scan is None or picture is None:
        return None
    # More blocks, and after the restart marker that may be due still more, change a picture that lacks some.
    restarts = _RESTART.findall(data, scan.start)
    due = bytes([0xFF, 0xD0 + ((restarts[-1][1] + 1) % 8 if restarts else 0)])
    if picture == _loaded(data + _NOISE + due + _NOISE + _END):
        return Shown(data + _END, 1.0)
    before = _loaded(data[: scan.start] + _END)
    assert before is not None
    return Shown(data + _END, _part(picture, before, scan))


def mark(picture: Tensor, part: float) -> Tensor:
    """The picture, which ``said_of`` then knows to be cut short."""
    picture.cut_short = f"cut short, {int(100 * part)} % shown"  # type: ignore[attr-defined]
    return picture


def said_of(picture: Tensor) -> str:
    """What is said of a decoded picture that is cut short; nothing of all others."""
    said: str = getattr(picture, "cut_short", "")
    return said


def _last_scan(data: bytes) -> _Scan | None:
    """None where the file is no JPEG or has an end, or where a component is not yet there in full precision."""
    if not data.startswith(b"\xff\xd8"):
        return None
    sampling: dict[int, tuple[int, int]] = {}  # component → its blocks across and down in an MCU
    precise: dict[int, set[int]] = {}  # component → coefficients of which a scan holds the last bit
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
    """The picture, none of whose pixels are decoded where it has too many."""
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            return None
        image.load()
        return image


def _part(picture: Image.Image, before: Image.Image, scan: _Scan) -> float:
    """Up to the last block that the scan changed, of all blocks."""
    columns, rows = -(-picture.width // scan.width), -(-picture.height // scan.height)
    for row in reversed(range(rows)):
        box = (0, row * scan.height, picture.width, min((row + 1) * scan.height, picture.height))
        now, then = (np.atleast_3d(np.asarray(image.crop(box))) for image in (picture, before))  # [h, w, bands]
        # Without the pixels at the edges of blocks, to which colour spreads from the blocks beside.
        changed = (now != then)[1:-1].any(axis=(0, 2)).nonzero()[0]
        changed = changed[~np.isin(changed % scan.width, (0, scan.width - 1))]
        if len(changed):
            return float(row * columns + changed[-1] // scan.width + 1) / (rows * columns)
    return 0.0
