"""From the numbers that a file holds to the pixels that a run reads: 8-bit RGB, or as stored and checked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hardviews.views.pixels import SPANS, Pixels

Array = NDArray[Any]

_UPRIGHT = {  # EXIF orientation → what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED: dict[int, Callable[[Array], Array]] = {  # the same for arrays [h, w, C]
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 3),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
_ORIENTATION = 0x0112  # the EXIF tag
_SAMPLE_FORMAT, _BITS = 339, 258  # TIFF's tags


def to_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """A loaded image as RGB uint8 ``[h, w, 3]``, upright. ``size`` (width, height) is that before it is turned."""
    orientation = _orientation(image)
    image = _in_rgb(image)
    if size is not None and size != image.size:
        # antialiased bilinear; the box reduction before it is exact and saves time on large images
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(image))


def of_picture(
    image: Image.Image, form: Pixels | None, size: tuple[int, int] | None = None, channels: int = 0
) -> Tensor:
    """A loaded image in a form, upright.

    Args:
        image: of any mode.
        form: as in ``Bounds``.
        size: width and height to which it is shrunk, before it is turned.
        channels: as in ``Bounds``.

    Returns:
        ``[h, w, C]``.

    Raises:
        ValueError: the image has other channels, or another type.
    """
    if form is not None and form.converts:
        return _stretched(to_rgb(image, size), form)
    found = of_array(array_of(image, channels), form, size)
    turned = _TURNED.get(_orientation(image))
    if turned is None:
        return found
    return noted(torch.from_numpy(np.ascontiguousarray(turned(found.numpy()))), not_finite(found))


def of_array(
    array: Array,
    form: Pixels | None,
    size: tuple[int, int] | None = None,
    shown: tuple[float, float] | None = None,
) -> Tensor:
    """Stored numbers in a form.

    Args:
        array: ``[h, w, C]`` of any numbers.
        form: as in ``Bounds``. 8-bit RGB is made of the first three channels, or of the first if there are two.
        size: width and height to which it is shrunk.
        shown: values that become black and white in 8-bit RGB; by default those of ``_eight_bits``.

    Returns:
        ``[h, w, C]``. Values that are not finite become the form's ``low`` and ``high``, and stay without a form;
        ``not_finite`` tells how many there were.

    Raises:
        ValueError: the array has other channels, or another type, or is nothing of numbers.
    """
    if form is not None and form.converts:
        rgb = to_rgb(Image.fromarray(_eight_bits(array, shown)), size)
        return _stretched(rgb, form)
    array = narrowed(array)
    kind = f"{array.shape[2]} {'channel' if array.shape[2] == 1 else 'channels'} of {array.dtype}"
    if form is not None and (array.shape[2] != form.channels or array.dtype != form.dtype):
        raise ValueError(f"{kind}, where {form.channels} of {form.dtype} must be")
    own, limits = array, None
    array, spoilt = _finite(array, form)
    if form is not None and form.percentiles is not None and spoilt:
        # Of its numbers alone; what is none becomes the lowest.
        good = np.where(np.isfinite(own), own, np.nan)
        limits = np.nan_to_num(np.nanpercentile(good, form.percentiles, axis=None if form.rgb else (0, 1)))
        array = np.where(np.isfinite(own), own, limits[0]).astype(np.float32)
    if size is not None and size != (array.shape[1], array.shape[0]):
        array = shrunk(array, size)
    found = torch.from_numpy(np.array(array, order="C"))  # a copy: what is mapped can't be written
    return noted(found if form is None else _stretched(found, form, limits), spoilt)


def narrowed(array: Array) -> Array:
    """Numbers as one of the types that images have here.

    uint8, uint16, int16 and float32 stay; int8 becomes int16; true and false become 255 and 0; all others become
    float32, which is exact for whole numbers up to 2^24.
    """
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "uif":
        raise ValueError(f"{array.dtype} is no type of pixels")
    name = array.dtype.newbyteorder("=").name
    return array.astype("int16" if name == "int8" else name if name in SPANS else "float32", copy=False)


def shrunk(array: Array, size: tuple[int, int]) -> Array:
    """Numbers ``[h, w, C]`` resized to width and height: antialiased bilinear, in float32, rounded for whole ones."""
    width, height = size
    small = np.empty((height, width, array.shape[2]), array.dtype)
    for channel in range(array.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(array[..., channel], np.float32))
        found = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
        small[..., channel] = found if array.dtype.kind == "f" else np.rint(found)
    return small


def array_of(image: Image.Image, channels: int = 0) -> Array:
    """What a loaded image holds, ``[h, w, C]``.

    Grey of 8 or 16 bits and floats stay. Transparency is laid on white, unless with it the image has as many channels
    as are asked for. Colours in palettes, CMYK or other spaces become RGB.
    """
    if (image.mode, channels) in (("RGBA", 4), ("LA", 2)):
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image)[..., None]
    if image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode == "I":
        whole = np.asarray(image)[..., None]  # int32
        if image.format in ("PNG", "PPM"):  # older Pillows open 16-bit images so; a PPM is scaled to 16 bits
            return whole.clip(0, 65535).astype(np.uint16)
        tags: Any = getattr(image, "tag_v2", {})
        signed = tuple(tags.get(_SAMPLE_FORMAT, ())) == (2,) and tuple(tags.get(_BITS, ())) == (16,)
        return whole.astype(np.int16) if signed else whole
    grey = image.mode in ("1", "L", "LA", "La")
    rgb = np.asarray(_in_rgb(image))
    return rgb[..., :1] if grey else rgb


def on_white(array: Array, multiplied: bool = False) -> Array:
    """Colours and, as last channel, how opaque they are, uint8 or uint16 ``[h, w, C + 1]``, laid on white.

    Args:
        array: the colours, multiplied by their opacity if ``multiplied`` (TIFF's associated alpha).
    """
    most = int(SPANS[array.dtype.name][1])
    wide = array.astype(np.int64)
    colour, opaque = wide[..., :-1], wide[..., -1:]
    laid = (colour if multiplied else (colour * opaque + most // 2) // most) + most - opaque
    return laid.clip(0, most).astype(array.dtype)


def not_finite(picture: Tensor) -> int:
    """How many numbers of a decoded image were NaN or infinite, and have been replaced."""
    count: int = getattr(picture, "not_finite", 0)
    return count


def noted(picture: Tensor, count: int) -> Tensor:
    """Notes a number for ``not_finite``."""
    if count:
        picture.not_finite = count  # type: ignore[attr-defined]
    return picture


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            return Image.fromarray(_eight_bits_of_floats(grey)).convert("RGB")
        grey = grey * (255 / 65535)  # older Pillows open 16-bit images as "I"
        return Image.fromarray((np.clip(grey, 0, 255) + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits_of_floats(grey: Array) -> Array:
    """0..1, or 0..255 if any value is above 1."""
    grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
    grey = grey * 255 if grey.max() <= 1 else grey
    return (np.clip(grey, 0, 255) + 0.5).astype(np.uint8)


def _eight_bits(array: Array, shown: tuple[float, float] | None) -> Array:
    """Numbers ``[h, w, C]`` as 8 bits: RGB ``[h, w, 3]``, or grey ``[h, w]`` of one or two channels.

    Without ``shown``, 16 bits are scaled from 0..65535; signed ones from the image's own least and most; floats from
    0..1, or 0..255 if any value is above 1.
    """
    array = narrowed(array)
    array = array[..., :3] if array.shape[2] >= 3 else array[..., 0]
    if shown is None and array.dtype == np.uint8:
        return array
    if shown is None and array.dtype == np.float32:
        return _eight_bits_of_floats(array.astype(np.float64))
    if shown is None:
        shown = (0, 65535) if array.dtype == np.uint16 else (float(array.min()), float(array.max()))
    wide = np.nan_to_num(array.astype(np.float64), nan=shown[0], posinf=shown[1], neginf=shown[0])
    scaled = (wide - shown[0]) * (255 / max(shown[1] - shown[0], 1e-12))
    return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)


def _finite(array: Array, form: Pixels | None) -> tuple[Array, int]:
    """Without NaN and infinity where there is a form, and how many there were."""
    if array.dtype.kind != "f" or (good := np.isfinite(array)).all():
        return array, 0
    count = int((~good).sum())
    if form is None:
        return array, count
    least, most = np.array(form.ranges, np.float32)
    return np.where(good, array, np.where(array > 0, most, least)), count


def _stretched(picture: Tensor, form: Pixels, limits: Array | None = None) -> Tensor:
    """With the image's own percentiles at ``low`` and ``high``: one pair for RGB, else one per channel. ``limits`` are
    these percentiles where they are known."""
    if form.percentiles is None:
        return picture
    wide = picture.numpy().astype(np.float32)
    found = limits  # [2] or [2, C]
    if found is None:
        found = np.percentile(wide, form.percentiles, axis=None if form.rgb else (0, 1))
    low, high = np.array(form.ranges, np.float32)
    scale = (high - low) / np.maximum(found[1] - found[0], 1e-12)
    wide = ((wide - found[0]) * scale + low).clip(low, high)
    if form.dtype != "float32":
        wide = np.rint(wide)
    return torch.from_numpy(wide.astype(form.dtype))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not spoil the image
        return 1
