"""COCO's annotation files: finding them, and reading them by pycocotools without its output.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (arXiv 1405.0312).
"""

import contextlib
import io
from pathlib import Path
from typing import Any

from hardviews.data.reading.decode import printable
from hardviews.errors import InputError

YEAR = "2017"  # preferred if there are annotations of several years
SPLITS = {
    "train": ("train",),
    "test": ("val", "test"),
}  # COCO's test annotations are not public, so val is the test split


def instances(root: Path, split: str) -> Path:
    """The annotation file of a split.

    Raises:
        InputError: there is no such file.
    """
    folder = root / "annotations"
    for name in SPLITS[split]:
        found = sorted(folder.glob(f"instances_{name}*.json"))
        if found:
            return next((file for file in found if file.stem.endswith(YEAR)), found[-1])
    wanted = folder / f"instances_{SPLITS[split][0]}{YEAR}.json"
    raise InputError(f"{printable(str(wanted))}: no such file; a folder of scenes is laid out as COCO")


def read_coco(file: Path) -> Any:
    """Annotations as a ``pycocotools.coco.COCO``.

    Raises:
        InputError: they can't be read, or are no instance annotations.
    """
    coco_tools()
    from pycocotools.coco import COCO

    name = printable(str(file))
    try:
        with quiet():
            coco = COCO(str(file))
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise InputError(f"{name}: damaged, or no COCO annotations") from error
    if not coco.imgs or not coco.cats or "annotations" not in coco.dataset:
        raise InputError(f"{name}: has no images, categories or annotations")
    if not all("file_name" in image for image in coco.imgs.values()):
        raise InputError(f"{name}: an image has no file_name")
    if not all("name" in category for category in coco.cats.values()):
        raise InputError(f"{name}: a category has no name")
    return coco


def coco_tools() -> None:
    """Raises InputError if pycocotools is not installed."""
    try:
        import pycocotools.coco  # noqa: F401
    except ImportError as error:
        raise InputError("detection needs pycocotools: pip install 'hardviews[evaluation]'") from error


def quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """A context in which pycocotools prints nothing."""
    return contextlib.redirect_stdout(io.StringIO())
