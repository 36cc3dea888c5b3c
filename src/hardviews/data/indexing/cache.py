"""Files in a cache on disk: where they are, written whole, made by one process at a time."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def cache_folder(kind: str) -> Path:
    """``$HARDVIEWS_CACHE`` (``~/.cache/hardviews``) / ``kind``. It may not exist yet."""
    return Path(os.environ.get("HARDVIEWS_CACHE") or Path.home() / ".cache" / "hardviews") / kind


@contextlib.contextmanager
def written_whole(file: Path) -> Generator[BinaryIO, None, None]:
    """Opens a new file beside ``file`` and renames it at the end, so ``file`` is complete or absent.

    ``tempfile`` is no help: nobody but the owner may ever read its files, and users share a cache.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.stem}-{uuid4().hex}.part")
    try:
        with beside.open("xb") as part:
            yield part
            part.flush()
            os.fsync(part.fileno())  # else a power cut can leave the name without the content
        beside.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone(file: Path) -> Generator[None, None, None]:
    """Holds a lock beside a file: one process makes the file while the others wait.

    Where the system has no locks, every process makes it. That does no harm.
    """
    try:
        import fcntl

        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
