"""Shards for tests: images that tell their number by their colour, written by WebDataset's own writer."""

from io import BytesIO
from pathlib import Path

import webdataset as wds
from PIL import Image


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def shards(folder: Path, counts: list[int], size: tuple[int, int] = (8, 8)) -> list[Path]:
    """Shards of so many samples; image k is ``png(k, size)`` with label k modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    files, number = [], 0
    for shard, count in enumerate(counts):
        files.append(folder / f"{shard:03d}.tar")
        with wds.TarWriter(str(files[-1])) as writer:
            for _ in range(count):
                writer.write({"__key__": f"{number:06d}", "png": png(number, size), "cls": number % 10})
                number += 1
    return files
