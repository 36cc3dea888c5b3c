"""Tar files read from front to back, member by member, and WebDataset's samples in them.

Python's ``tarfile`` treats a damaged header in mid-file as the end of the file. Here it is an error with its place. The
same code walks a file, skipping the content, and a stream.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hardviews.data.reading.decode import MOST_BYTES, too_large
from hardviews.data.reading.extensions import DOTTED, is_array, is_image, passed_over, readable

BLOCK = 512
MOST_NOTES = 1 << 20  # bytes of a long name or of pax records
MOST_DIGITS = 64  # bytes of a label
LABEL = "cls"


class BrokenTarError(Exception):
    """The byte from which a tar can't be read any further, and why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset, self.reason = offset, reason

    def __str__(self) -> str:
        return f"damaged at byte {self.offset}: {self.reason}"


class Bytes(Protocol):
    """A file that a tar is read from."""

    def read(self, count: int, /) -> bytes:
        """``count`` bytes, fewer only at the end."""
        ...

    def skip(self, count: int, /) -> None: ...


class Member(NamedTuple):
    """A file in a tar: its name, the place and size of its content, and whether it is sparse (stored with holes)."""

    name: str
    start: int
    size: int
    sparse: bool


class Sample(NamedTuple):
    """An image in a tar.

    Args:
        name: of the member.
        start, size: the place of its bytes.
        label: the sample's label, or -1.
        fault: why it can't be read, or empty.
        data: the bytes, if they were to be loaded and there is no fault.
    """

    name: str
    start: int
    size: int
    label: int
    fault: str
    data: bytes


class Tar:
    """The members of a tar, in order. Plain tars, GNU's long names and pax are read.

    Links, folders and the like are skipped.

    Raises:
        BrokenTarError: (while iterating) a header is damaged, or the file is cut short.
    """

    def __init__(self, file: Bytes) -> None:
        self._file, self._at = file, 0

    def __iter__(self) -> Iterator[Member]:
        notes: dict[str, str] = {}  # from pax records and long names, about the next member
        while True:
            start = self._at
            header = self._read(BLOCK)
            if not header.strip(b"\0"):
                return
            kind, size = header[156:157], _size(header, start)
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                if size > MOST_NOTES:
                    raise BrokenTarError(start, f"a name or record of {size} bytes")
                content = self._read(size)
                self._skip(-size % BLOCK)
                if kind == b"L":
                    notes["path"] = os.fsdecode(content.rstrip(b"\0"))
                elif kind in (b"x", b"X"):
                    notes |= _records(content, start)
                continue
            more = kind == b"S" and header[482]
            while more:  # GNU's map of holes continues in further blocks
                more = self._read(BLOCK)[504]
            size = _whole(notes.get("size"), size, start)
            name = notes.get("GNU.sparse.name") or notes.get("path") or _name(header)
            sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in notes)
            notes = {}
            if kind in b"1 2 3 4 5 6".split():
                continue  # these have no content, whatever size they state
            self._left = size
            if kind in (b"0", b"\0", b"7", b"S") and not name.endswith("/"):
                yield Member(name, self._at, size, sparse)
            self._skip(self._left + -size % BLOCK)

    def content(self) -> bytes:
        """The content of the last member yielded. It can be read once."""
        data, self._left = self._read(self._left), 0
        return data

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise BrokenTarError(self._at + len(data), "it ends here or before, without the zeros that a tar ends with")
        self._at += count
        return data

    def _skip(self, count: int) -> None:
        self._file.skip(count)
        self._at += count


def samples(
    tar: Tar, image: str | None, label: str, load: bool, passed: Counter[str] | None = None
) -> Iterator[Sample]:
    """The images of a tar. A WebDataset sample is a row of members with the same name up to the first dot.

    Args:
        tar: the file.
        image: the extension of the image, such as ``jpg`` or ``left.png``; None for the first known one.
        label: the extension of the label, a text with one whole number.
        load: whether to read the bytes.
        passed: counts samples without an image that look like images, by ``extensions.passed_over``.
    """
    passed = Counter() if passed is None else passed
    now: str | None = None
    found: Sample | None = None
    like = ""
    number = -1
    for member in tar:
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot or (stem.startswith("__") and stem.endswith("__")):
            if image is None and (kind := passed_over(base)):
                passed[kind] += 1
            continue
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if key != now:
            if found:
                yield found._replace(label=number)
            elif like:
                passed[like] += 1
            now, found, like, number = key, None, "", -1
        wanted = f".{extension}" in readable() if image is None else extension == image.lower()
        # An array beside a picture may be anything.
        yields = found is not None and image is None and is_array(found.name) and not is_array(base)
        if wanted and (found is None or yields):
            fault = ""
            if member.sparse:
                fault = "stored with holes (a sparse file)"
            elif member.size > MOST_BYTES:
                fault = too_large(member.size)
            data = tar.content() if load and not fault else b""
            found = Sample(member.name, member.start, member.size, -1, fault, data)
        elif extension == label and member.size <= MOST_DIGITS:
            text = tar.content().strip()
            number = int(text) if text.isdigit() else -1
        elif image is None:
            like = like or (DOTTED if is_image(base) else passed_over(base))
    if found:
        yield found._replace(label=number)
    elif like:
        passed[like] += 1


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _size(header: bytes, offset: int) -> int:
    """The size in a header whose checksum is right."""
    try:
        stated = int(header[148:156].strip(b"\0 ") or b"0", 8)
        right = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        field = header[124:136]
        # Large sizes are binary.
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        stated, right, size = 0, 1, 0
    if stated != right or size < 0:
        raise BrokenTarError(
            offset, "no header of a tar (compressed tars must be unpacked)" if not offset else "no header"
        )
    return size


def _records(content: bytes, offset: int) -> dict[str, str]:
    """Pax records: ``length key=value`` and a new line. The length is that of the whole record."""
    found: dict[str, str] = {}
    at = 0
    while at < len(content) and content[at]:
        digits = content[at : at + 20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = content[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not equals:
            raise BrokenTarError(offset, "pax records that are none")
        found[os.fsdecode(key)] = os.fsdecode(value)
        at += length
    return found


def _whole(stated: str | None, size: int, offset: int) -> int:
    if stated is not None and not stated.isdecimal():
        raise BrokenTarError(offset, "a size that is no number")
    return size if stated is None else int(stated)
