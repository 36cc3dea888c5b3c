"""How large a decoded image may be, and of which pixels it is."""

from dataclasses import dataclass

from hardviews.errors import InputError
from hardviews.views.pixels import RGB, Pixels
from hardviews.wording import several

DECODE_SIZE = 512  # pixels of the shorter side to which a larger image is shrunk by default


@dataclass(frozen=True)
class Bounds:
    """How an image is decoded: how large it may be, and to which pixels. Larger images are shrunk and keep their aspect
    ratio. 0 means no bound.

    Args:
        side: pixels of the shorter side.
        pixels: height times width.
        form: by default 8-bit RGB, to which every image is converted; None for what is stored, whatever it is.
        asked: without a form, the channels that are asked for; 0 for any.
    """

    side: int = 0
    pixels: int = 0
    form: Pixels | None = RGB
    asked: int = 0

    @property
    def channels(self) -> int:
        """The channels that an image must have, of which its transparency is one where they say so; 0 for any."""
        return self.asked if self.form is None else 0 if self.form.converts else self.form.channels

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size to which an image of this size is shrunk; the same size if it is within the bounds."""
        scale = 1.0
        if self.side:
            scale = min(scale, self.side / min(width, height))
        if self.pixels:
            scale = min(scale, (self.pixels / (width * height)) ** 0.5)
        if scale == 1.0:
            return width, height
        # rounded down, so that the bound on pixels holds; the shorter side is exact
        shrunk = max(1, int(width * scale + 1e-6)), max(1, int(height * scale + 1e-6))
        if self.pixels and shrunk[0] * shrunk[1] > self.pixels:  # a side below one pixel was rounded up
            shrunk = min(shrunk[0], self.pixels), min(shrunk[1], self.pixels)
        return shrunk


UNBOUNDED = Bounds()
MAX_BATCH_BYTES = 1 << 30  # of the decoded pictures of a batch, by default


def bounds_for(
    batch_size: int, decode_size: int = 0, max_batch_bytes: int = MAX_BATCH_BYTES, form: Pixels = RGB
) -> Bounds:
    """What every image of a batch is shrunk to: its share of the batch's bytes, whatever the others are.

    Args:
        batch_size: images in the batch.
        decode_size: pixels of the shorter side; 0 stands for ``DECODE_SIZE``.
        max_batch_bytes: of the decoded batch.
        form: of the pixels.

    Raises:
        InputError: the batch's bytes leave less than one pixel to an image.
    """
    pixels = max_batch_bytes // (form.bytes * batch_size)
    if pixels < 1:
        raise InputError(
            f"max_batch_bytes: {several(max_batch_bytes, 'byte is', 'bytes are')} too few for a batch of "
            f"{several(batch_size, 'image')}"
        )
    return Bounds(decode_size or DECODE_SIZE, pixels, form)
