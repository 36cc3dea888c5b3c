"""Whether a sample of pictures has something to learn: pictures differ, are not plain, and use the range of values.

Pictures of any channels and types are looked at as levels 0 to 255, after the run's range of values.

The limits leave a margin to real data sets: of 256 pictures each of CIFAR-10, Imagenette and ``shapes``, of each class
of the first two by itself, and of COCO. These use 243 of 255 levels or more. Any two of their pictures are at least
1/21 of the used range apart (the nearest are two parachutes in the sky). Only one picture shows a single colour, and
none is dark or light: of none are 95 % of the values below 49, or above 208.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.doctor.checks import Check
from hardviews.probing.sample import DecodedSample
from hardviews.views.pixels import RGB
from hardviews.wording import several

SIDE = 16  # pixels; pictures are shrunk to this side before they are compared, which removes noise
ALIKE = 1 / 40  # of the used range: two pictures are alike whose shrunk values differ by less, as a root mean square
PLAIN = 1 / 16  # of the used range: a picture shows a single colour if none of its channels spans more
DARK, LIGHT = 32, 224  # levels below, or above, which 95 % of the values of a dark, or light, picture lie
NARROW = 64  # levels: a set that uses fewer leaves three quarters of what 8 bits can tell unused
TWINS = 0.1  # of the pictures: so many may be like another one
AS_MEANT = "look at the files: are the values written as meant? (16 bits often hold 12)"


@dataclass(frozen=True)
class Contents:
    """Statistics of a sample of pictures.

    Args:
        pictures: how many.
        low, high: the levels, 0 to 255, between which 98 % of all values lie.
        dark, light, plain: how many pictures are.
        twins: how many are like another one.
        pairs_alike: the part of all pairs of pictures that are alike.
    """

    pictures: int
    low: int
    high: int
    dark: int
    light: int
    plain: int
    twins: int
    pairs_alike: float


def contents_of(sample: DecodedSample) -> Contents:
    """Computes them of a sample of at least one picture."""
    form = sample.form or RGB
    pictures = [form.levels(picture).round_().byte() for picture in sample.pictures]
    channels = torch.stack([_shares(picture) for picture in pictures])  # [N, C, 256]
    shares = channels.mean(1)
    low, high = _quantiles(shares.mean(0), 0.01, 0.99).tolist()
    used = max(high - low, 1)
    lower, upper = _quantiles(shares, 0.05, 0.95).unbind(-1)
    first, last = _quantiles(channels, 0.01, 0.99).unbind(-1)
    small = torch.stack([F.adaptive_avg_pool2d(p.permute(2, 0, 1).float(), SIDE).flatten() for p in pictures])
    alike = torch.cdist(small, small) / small.shape[1] ** 0.5 < ALIKE * used
    alike.fill_diagonal_(False)
    count = len(small)
    return Contents(
        pictures=count,
        low=low,
        high=high,
        dark=int((upper < DARK).sum()),
        light=int((lower > LIGHT).sum()),
        plain=int(((last - first).amax(1) < PLAIN * used).sum()),
        twins=int(alike.any(1).sum()),
        pairs_alike=int(alike.sum()) / max(count * (count - 1), 1),
    )


def check_contents(contents: Contents) -> Check:
    """Lists what is wrong with the pictures. It fails where nothing can be learned: most pairs are alike, or nearly all
    pictures show a single colour."""
    count, half = contents.pictures, contents.pictures / 2
    found: list[tuple[str, str]] = []
    if contents.pairs_alike > 0.5:
        found.append(
            (f"{contents.pairs_alike:.0%} of all pairs of pictures are nearly the same", "pictures that differ")
        )
    elif contents.twins > TWINS * count:
        twins = f"{contents.twins} of {count} pictures are nearly the same as another"
        found.append((twins, "one of each; of films, fewer frames"))
    if contents.plain > half:
        found.append((f"{contents.plain} of {count} show a single colour", "leave out those that show nothing"))
    if contents.dark > half:
        found.append((f"{contents.dark} of {count} are nearly black", AS_MEANT))
    if contents.light > half:
        found.append((f"{contents.light} of {count} are nearly white", AS_MEANT))
    if contents.high - contents.low < NARROW:
        found.append((f"of the levels 0 to 255 they use {contents.low} to {contents.high} alone", AS_MEANT))
    figures = vars(contents)
    if not found:
        says = (
            f"{several(count, 'picture')}, {contents.twins or 'none'} of them like another, "
            f"of levels {contents.low} to {contents.high}"
        )
        return Check("content", "ok", says, figures=figures)
    hopeless = contents.pairs_alike > 0.5 or contents.plain > 0.9 * count
    says, remedy = ("; ".join(dict.fromkeys(parts)) for parts in zip(*found, strict=True))
    return Check("content", "failed" if hopeless else "warning", says, remedy, figures)


def _shares(picture: Tensor) -> Tensor:
    """Histograms of the channels' values, as parts of all, ``[C, 256]``."""
    columns = picture.reshape(-1, picture.shape[-1]).T
    counts = torch.stack([channel.bincount(minlength=256) for channel in columns]).double()
    return counts / counts.sum(1, keepdim=True)


def _quantiles(shares: Tensor, *parts: float) -> Tensor:
    """Quantiles of histograms ``[..., 256]``: levels below which these parts of the values lie, ``[..., parts]``."""
    wanted = torch.tensor(parts, dtype=shares.dtype).expand(*shares.shape[:-1], -1).contiguous()
    return torch.searchsorted(shares.cumsum(-1).contiguous(), wanted).clamp(max=255)
