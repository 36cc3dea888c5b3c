"""Which files are images by their names, and which look like images and are not read."""

import os
from collections.abc import Mapping
from functools import cache

from hardviews.data.reading.formats.dicom import is_dicom
from hardviews.data.reading.formats.table import FORMATS, ZARR, Format, install, installed, started
from hardviews.wording import several

# All extensions that Pillow knows for the formats that `decode.py` opens. An MPO is a JPEG followed by others.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".avif", ".avifs"),
)
ARRAYS = (".npy", ".npz")  # images too, but beside pictures they are masks, features and the like
WITH_FRAMES = (".tif", ".tiff", ".dcm", ".dicom", *ARRAYS, ".zarr")  # formats of stacks; animations count as one frame
_PICTURES = frozenset(EXTENSIONS)
_OTHERS: dict[str, Format] = {extension: known for known in (*FORMATS, ZARR) for extension in known.extensions}
# Images, and files of many images, that are passed over.
_LIKE_IMAGES = frozenset((
    *(".jxl", ".jxr", ".hdp", ".wdp", ".bpg", ".flif", ".qoi", ".ico", ".icns", ".cur"),
    *(".tga", ".pcx", ".dds", ".sgi", ".ras", ".xbm", ".xpm", ".exr", ".hdr"),
    *(".svg", ".svgz", ".eps", ".wmf", ".emf", ".ai", ".cdr", ".psd", ".psb", ".xcf", ".kra"),  # drawings
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    *(".raw", ".rwl", ".3fr", ".fff", ".iiq", ".x3f", ".erf", ".kdc", ".dcr", ".mrw", ".mos", ".mef"),  # of cameras
    *(".nii", ".mha", ".mhd", ".nrrd", ".fit", ".fits", ".mat", ".h5", ".hdf5"),
    *(".tar", ".tgz", ".zip", ".parquet", ".arrow", ".tfrecord"),
))  # fmt: skip
HIDDEN, DOTTED, BESIDE, STRAY = "hidden", "dotted", "beside", "stray"
OUTNUMBER = 10  # arrays to a picture: beside fewer they are masks, features and the like, beside more the images
_WHY = {
    BESIDE: f".npy or .npz beside pictures (read where there are {OUTNUMBER} of them to a picture, or no picture)",
    STRAY: f"beside .npy or .npz (which are the images where there are {OUTNUMBER} of them to a picture)",
    HIDDEN: "hidden (the name begins with a dot)",
    DOTTED: "with more than one dot in the name (in a tar, the extension begins at the first; --image-column names it)",
}
_CONVERT = "not read as pictures: convert or unpack them to JPEG or PNG"


@cache
def readable() -> frozenset[str]:
    """The extensions of all files that are images, with what is installed."""
    return _PICTURES | {extension for extension, known in _OTHERS.items() if installed(known.module)}


def is_image(name: str) -> bool:
    """By its extension."""
    return _extension(name) in readable()


def known_as(path: str) -> str:
    """The name of a file by which its format is known. Files of DICOM often have no extension, or the number that an
    identifier ends in: it is their first bytes that tell, and ``.dcm`` is added. Their index (DICOMDIR) has no picture.
    """
    name = os.path.basename(path)  # noqa: PTH119
    extension = _extension(name)
    if (extension and not extension[1:].isdigit()) or name.startswith(".") or name.upper() == "DICOMDIR":
        return name
    # Only regular files: to open others may block.
    return f"{name}.dcm" if os.path.isfile(path) and is_dicom(started(path)) else name  # noqa: PTH113


def is_array(name: str) -> bool:
    """Whether it is one of ``ARRAYS``, by its extension."""
    return _extension(name) in ARRAYS


def stray(name: str) -> str:
    """What a picture counts as that is passed over beside arrays: ``STRAY`` and its extension."""
    return f"{STRAY} {_extension(name)}"


def is_store_name(name: str) -> bool:
    """Whether a folder of this name is one image, by its extension; it may be one that is not readable."""
    return _extension(name) in ZARR.extensions


def passed_over(name: str) -> str:
    """The extension of a file that looks like an image and is passed over, or ``HIDDEN``; empty for all others."""
    extension = _extension(name)
    if name.startswith("."):
        return HIDDEN if extension in readable() else ""
    return extension if extension in _LIKE_IMAGES or (extension in _OTHERS and extension not in readable()) else ""


def in_words(passed: Mapping[str, int]) -> str:
    """How many files are passed over and why, from counts by ``passed_over``; empty if there are none."""
    kinds = sorted((-count, kind) for kind, count in passed.items())  # the most frequent first
    counts: dict[str, list[str]] = {}
    for count, kind in kinds:
        if kind.split()[0] not in _WHY:
            known = _OTHERS.get(kind)
            remedy = install(known.extra) + " reads them" if known and known.extra else _CONVERT
            counts.setdefault(remedy, []).append(f"{-count:,} {kind}")
    reasons = [f"{', '.join(found)} ({remedy})" for remedy, found in counts.items()]
    for count, kind in kinds:
        why, _, extension = kind.partition(" ")
        reasons += [f"{-count:,} {f'{extension} ' * bool(extension)}{_WHY[why]}"] if why in _WHY else []
    files = several(sum(passed.values()), "file is", "files are")
    return f"{files} passed over: {' and '.join(reasons)}" if reasons else ""


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (Path would cost more than the folder's entry)
