"""Images that a caller gives as objects, arrays and tensors, in the form that is wanted."""

from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hardviews.data.reading.bounds import Bounds
from hardviews.data.reading.forms import Array, of_array, of_picture
from hardviews.views.pixels import MOST_CHANNELS, Pixels

WANTED = (
    "wanted: a PIL image; a file's path; uint8 or float (0 to 1) of shape [3, h, w] or [h, w, 3], or with 1 channel; "
    "uint8 of shape [h, w]; or (image, label)"
)
STORED = (
    "wanted: a PIL image; a file's path; uint8, uint16, int16 or float of shape [h, w], or [C, h, w] or [h, w, C] with "
    f"at most {MOST_CHANNELS} channels; or (image, label)"
)


def of_given(image: Any, bounds: Bounds) -> Tensor:
    """A PIL image, an array or a tensor, ``[h, w, C]``.

    Of bounds without a form, what can be taken for 8-bit grey or RGB is: uint8, and floats from 0 to 1, of one or three
    channels.

    Raises:
        ValueError: it is none of these, or has other channels than the form, or another type.
        Exception: any kind, by Pillow, for a damaged file that is still to be read.
    """
    form = bounds.form
    if isinstance(image, Image.Image):
        image.load()
        return of_picture(image, form, bounds.fit(*image.size), bounds.channels)
    array, channels_first = _numbers(image)
    if form is not None and form.converts:
        picture = _eight_bits(array, channels_first)
        return of_picture(picture, form, bounds.fit(*picture.size))
    if form is None:
        with suppress(ValueError):
            picture = _eight_bits(array, channels_first)
            return of_picture(picture, form, bounds.fit(*picture.size))
    array = _stored(array, channels_first, form)
    return of_array(array, form, bounds.fit(array.shape[1], array.shape[0]))


def _numbers(image: Any) -> tuple[Array, bool]:
    """An array, and whether its kind has channels first by custom."""
    channels_first = isinstance(image, Tensor)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"came as {type(image).__name__}; {STORED}")
    return image, channels_first


def _came(image: Array) -> str:
    return f"came as {image.dtype} of shape {list(image.shape)}"


def _eight_bits(image: Array, channels_first: bool) -> Image.Image:
    """As 8-bit RGB or grey; raises ValueError for what is not."""
    what = _came(image)
    if image.ndim == 2 and image.dtype == np.uint8:
        image = image[..., None]
    first, last = (image.ndim == 3 and image.shape[axis] in (1, 3) for axis in (0, 2))
    floating = np.issubdtype(image.dtype, np.floating)
    if not (first or last) or not image.size or not (floating or image.dtype == np.uint8):
        raise ValueError(f"{what}; {WANTED}")
    if first and (channels_first or not last):
        image = image.transpose(1, 2, 0)
    if floating:
        if not (image.min() >= 0 and image.max() <= 1):  # also of NaN
            raise ValueError(f"{what} with values {image.min():.3g} to {image.max():.3g}; {WANTED} (no Normalize)")
        image = (image * 255 + 0.5).astype(np.uint8)
    image = image[..., 0] if image.shape[2] == 1 else image
    return Image.fromarray(np.ascontiguousarray(image))


def _stored(image: Array, channels_first: bool, form: Pixels | None) -> Array:
    """``[h, w, C]`` as it is stored; raises ValueError for what is no image.

    Channels are the axis that is as long as the form has channels, else the shorter one; of two such axes the one where
    its kind has them: the first of a tensor, the last of an array.
    """
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "uif":
        raise ValueError(f"{_came(image)}; {STORED}")
    if image.ndim == 2:
        return image[..., None]
    first, last = image.shape[0], image.shape[2]
    if first != last:
        channels_first = first == form.channels if form and form.channels in (first, last) else first < last
    if (first if channels_first else last) > MOST_CHANNELS:
        raise ValueError(f"{_came(image)}; {STORED}")
    return image.transpose(1, 2, 0) if channels_first else image
