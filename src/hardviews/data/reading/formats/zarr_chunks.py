"""Zarr's files and chunks, read by zarr within bounds: a chunk unpacks to as many bytes as its array claims.

zarr and numcodecs unpack whatever a chunk holds. Here a codec that packs is replaced by one that knows the size.
"""

import asyncio
import bz2
import lzma
import stat
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numcodecs
import numpy as np
from zarr import Array, AsyncArray, config
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import RangeByteRequest
from zarr.storage import LocalStore, StorePath

from hardviews.data.reading.formats.scene import MOST_DECODED, check_bytes

_CHECKSUMS = ("crc32c", "crc32", "adler32")  # of 4 bytes each
_NUMBERS = ("delta", "fixedscaleoffset")  # change the type of numbers
_PLAIN = ("bytes", "endian", "shuffle", "transpose")  # change their order
_SHARDS = "sharding_indexed"
_SLACK = 1 << 20  # bytes by which a file may be larger than twice its chunk, or shard, unpacked
_MOST_LZMA = 1 << 28  # bytes of memory besides what it unpacks to
# Codecs that pack, and can stop at a number of bytes → what unpacks; of the others a header tells the size.
_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_LZMA),
}
_SIZED = ("blosc", "lz4", "zstd")

Codecs = list[Any]  # as metadata has them, or zarr's


def opened(folder: Path, meta: dict[str, Any]) -> Any:
    """zarr's array of a folder, with bounded codecs in place of those that its metadata names.

    Raises:
        ValueError: a codec that is not read (others may unpickle, or be brought by any package), or numbers of a type
            that is not; chunks of more than ``MOST_DECODED`` bytes.
    """
    if meta.get("zarr_format") == 3:
        dtype, shape = _dtype(meta.get("data_type")), meta["chunk_grid"]["configuration"]["chunk_shape"]
        meta = meta | {"codecs": _bounded(meta["codecs"], shape, dtype)}
    elif meta.get("zarr_format") == 2:
        dtype, shape = _dtype(meta.get("dtype")), meta["chunks"]
        filters, packer = meta.get("filters") or [], meta.get("compressor")
        bounded = _bounded([*filters, packer] if packer else filters, shape, dtype)
        packed = [_Compressor(codec) if isinstance(codec, Packed) else codec for codec in bounded]
        if any(isinstance(codec, _Compressor) for codec in packed[: len(filters)]):
            raise ValueError("chunks that a filter packs are not read")
        meta = meta | {"filters": packed[: len(filters)] or None, "compressor": packed[-1] if packer else None}
    else:
        raise ValueError("holds no Zarr array")
    files = _Files(folder, read_only=True)
    files.most = 2 * prod(shape) * dtype.itemsize + _SLACK
    described: Any = meta
    return Array(AsyncArray(described, StorePath(files)))


def check_together(array: Any, touched: int) -> None:
    """Raises ValueError where the chunks that zarr unpacks at the same time have too many bytes.

    Four chunks of any size pass, since a small tile may touch as many.

    Args:
        array: as of ``opened``.
        touched: how many of its chunks are read.
    """
    together = min(touched, config.get("async.concurrency"))
    check_bytes(-(-together // 4), prod(array.chunks), array.dtype.itemsize)


class _Files(LocalStore):  # type: ignore[misc,unused-ignore]
    """A folder, of which regular files are read.

    Args:
        most: bytes that are read at once.
    """

    most = MOST_DECODED

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        try:
            found = (self.root / key).stat()
        except OSError:  # there is no such chunk: it holds the fill value
            return None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{key} is no file")
        in_part = isinstance(byte_range, RangeByteRequest)
        wanted = byte_range.end - byte_range.start if in_part else 0 if byte_range else found.st_size
        if wanted > self.most:
            raise ValueError(f"{key} holds {wanted} bytes, and a chunk needs at most {self.most}")
        return await super().get(key, prototype, byte_range)


@dataclass(frozen=True)
class Packed(BytesBytesCodec):  # type: ignore[misc,unused-ignore]
    """A codec that packs.

    Args:
        name: of the codec.
        size: bytes that every chunk unpacks to.
    """

    name: str
    size: int
    is_fixed_size = False

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        found = await asyncio.to_thread(unpacked, self.name, chunk_data.to_bytes(), self.size)
        return chunk_spec.prototype.buffer.from_bytes(found)

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> NoReturn:
        raise NotImplementedError

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> NoReturn:
        raise NotImplementedError


class _Compressor(numcodecs.abc.Codec):  # type: ignore[misc,unused-ignore]
    """The same for version 2 of the format."""

    codec_id = "hardviews"

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def encode(self, buf: Any) -> NoReturn:
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> bytes | bytearray:
        return unpacked(self._packed.name, bytes(buf), self._packed.size)


def unpacked(name: str, data: bytes, size: int) -> bytes | bytearray:
    """What a chunk unpacks to, and never more than ``size + 1`` bytes.

    Args:
        name: of the codec.
        data: the packed bytes.
        size: in bytes that it must unpack to, at least 1.

    Raises:
        ValueError: it unpacks to more or to less.
        Exception: of any kind, by the library that unpacks, if it is damaged.
    """
    if name in _STREAMS:
        unpacker = _STREAMS[name]()
        found: bytes = unpacker.decompress(data, size + 1)
        if len(found) == size and unpacker.eof:
            return found
        raise _other_size(size, "more" if len(found) > size else "less")
    claimed = _claimed(name, data)
    if claimed not in (size, None):
        raise _other_size(size, str(claimed))
    out = bytearray(size)
    numcodecs.get_codec({"id": name}).decode(data, out=out)  # which raises an error if it is not of this size
    return out


def _other_size(size: int, found: str) -> ValueError:
    return ValueError(f"a chunk of {size} bytes unpacks to {found}")


def _claimed(name: str, data: bytes) -> int | None:
    """The size that a header says its data unpacks to; None of a Zstandard frame that does not say it."""
    if name == "lz4":
        return int.from_bytes(data[:4], "little")
    if name == "blosc":
        if len(data) < 16 or int.from_bytes(data[12:16], "little") > len(data):
            raise ValueError(f"a chunk is cut short to {len(data)} bytes")
        return int.from_bytes(data[4:8], "little")
    # RFC 8878, 3.1.1.1: how long the size is, whether a window's byte is left out, how long a dictionary's number is.
    flags = data[4] if len(data) > 4 else 0
    alone = flags >> 5 & 1
    length = (alone, 2, 4, 8)[flags >> 6]
    start = 6 - alone + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[start : start + length], "little")
    return size + 256 * (length == 2) if length else None


def _bounded(codecs: Sequence[Any], chunk: Sequence[int], dtype: np.dtype[Any], in_shard: bool = False) -> Codecs:
    """A chain of codecs in the order in which they encode, in which those that pack are replaced by bounded ones.

    Args:
        codecs: as the metadata names them.
        chunk: numbers of a chunk along each axis.
        dtype: of the array.
        in_shard: whether they are those of the chunks in a shard.
    """
    named = [_named(codec) for codec in codecs]
    names = [name for name, _ in named]
    if any(int(side) < 1 for side in chunk):
        raise ValueError(f"chunks of {list(chunk)} numbers are empty")
    if sum(name in _NUMBERS for name in names) > 1 or sum(name in _STREAMS or name in _SIZED for name in names) > 1:
        raise ValueError(f"chunks that are packed or converted twice are not read: {', '.join(names)}")
    if _SHARDS in names:
        if len(names) > 1 or in_shard:
            raise ValueError(f"shards within other codecs are not read: {', '.join(names)}")
        return [_bounded_shard(codecs[0], named[0][1], chunk, dtype)]
    size, bounded = prod(int(side) for side in chunk) * dtype.itemsize, []
    check_bytes(size)
    for codec, (name, settings) in zip(codecs, named, strict=True):
        if name in _NUMBERS:  # stored are numbers of `astype`; they become `dtype`
            after = _dtype(settings.get("dtype") or dtype.str)
            stored = _dtype(settings.get("astype") or after.str)
            check_bytes(size // dtype.itemsize, max(after.itemsize, stored.itemsize))
            size = size // dtype.itemsize * stored.itemsize
        size += 4 * (name in _CHECKSUMS)
        packs = name in _STREAMS or name in _SIZED
        if name == "lzma" and (settings.get("format", 1) != lzma.FORMAT_XZ or settings.get("filters")):
            raise ValueError("LZMA of other kinds than xz is not read")
        bounded.append(Packed(name, size) if packs else codec)
    return bounded


def _bounded_shard(codec: Any, settings: Any, shard: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """The codec of shards with bounded codecs of their chunks."""
    chunk = settings["chunk_shape"]
    index = [_named(inner)[0] for inner in settings.get("index_codecs", [])]
    if len(chunk) != len(shard) or any(int(side) < 1 for side in chunk) or set(index) - {"bytes", "crc32c"}:
        raise ValueError("shards of this kind are not read")
    check_bytes(16, *(-(-int(whole) // int(side)) for whole, side in zip(shard, chunk, strict=True)))  # the index
    return codec | {"configuration": settings | {"codecs": _bounded(settings["codecs"], chunk, dtype, in_shard=True)}}


def _named(codec: Any) -> tuple[str, Any]:
    """The name of a codec and its settings, by either version of the format."""
    found = {"name": codec} if isinstance(codec, str) else codec
    named = str(found.get("name", found.get("id", "")))
    name = named.removeprefix("numcodecs.")
    if name not in (*_CHECKSUMS, *_NUMBERS, *_PLAIN, *_STREAMS, *_SIZED, _SHARDS):
        raise ValueError(f"codec {named!r} is not read")
    return name, found.get("configuration") or found


def _dtype(named: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(named) if isinstance(named, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "buif":
        raise ValueError(f"an array of {named} is not read")
    return dtype
