"""Which files are images by their names, and which look like images and are not read."""

import os
from collections.abc import Mapping

from hardviews.wording import several

# All extensions that Pillow knows for the formats that `decode.py` opens. An MPO is a JPEG followed by others.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".avif", ".avifs"),
)
_IMAGES = frozenset(EXTENSIONS)
# Images, and files of many images, that are passed over.
_LIKE_IMAGES = frozenset((
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".hdp", ".wdp", ".bpg", ".flif", ".qoi", ".ico", ".icns", ".cur"),
    *(".tga", ".pcx", ".dds", ".sgi", ".ras", ".xbm", ".xpm", ".exr", ".hdr"),
    *(".svg", ".svgz", ".eps", ".wmf", ".emf", ".ai", ".cdr", ".psd", ".psb", ".xcf", ".kra"),  # drawings
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    *(".raw", ".rwl", ".3fr", ".fff", ".iiq", ".x3f", ".erf", ".kdc", ".dcr", ".mrw", ".mos", ".mef"),  # of cameras
    *(".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd", ".fit", ".fits", ".npy", ".npz", ".mat", ".h5", ".hdf5"),
    *(".tar", ".tgz", ".zip", ".parquet", ".arrow", ".tfrecord"),
))  # fmt: skip
HIDDEN, DOTTED = "hidden", "dotted"
_WHY = {
    HIDDEN: "hidden (the name begins with a dot)",
    DOTTED: "with more than one dot in the name (in a tar, the extension begins at the first; --image-column names it)",
}


def is_image(name: str) -> bool:
    """By its extension."""
    return _extension(name) in _IMAGES


def passed_over(name: str) -> str:
    """The extension of a file that looks like an image and is passed over, or ``HIDDEN``; empty for all others."""
    extension = _extension(name)
    if name.startswith("."):
        return HIDDEN if extension in _IMAGES else ""
    return extension if extension in _LIKE_IMAGES else ""


def in_words(passed: Mapping[str, int]) -> str:
    """How many files are passed over and why, from counts by ``passed_over``; empty if there are none."""
    kinds = sorted((-count, kind) for kind, count in passed.items())  # the most frequent first
    counts = ", ".join(f"{-count:,} {kind}" for count, kind in kinds if kind not in _WHY)
    reasons = []
    if counts:
        reasons.append(f"{counts} (not read as pictures: convert or unpack them to JPEG or PNG)")
    reasons += [f"{-count:,} {_WHY[kind]}" for count, kind in kinds if kind in _WHY]
    files = several(sum(passed.values()), "file is", "files are")
    return f"{files} passed over: {' and '.join(reasons)}" if reasons else ""


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (Path would cost more than the folder's entry)
