"""What is drawn for an image, and how many of it are kept: slots and plans. Numbers only, no tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hardviews.errors import InputError
from hardviews.wording import several

Interpolation = Literal["bilinear", "bicubic"]
ColourMode = Literal["matrix", "exact"]
TransformInput = Literal["crop", "image"]
# One view's pixels, and by name what it takes of seed, size and slot, to the view's pixels: see ``transforms.py``.
Transform = Callable[..., Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Photometric:
    """The distribution of everything about a view that is not its crop.

    Args:
        brightness, contrast, saturation: factors are uniform in ``[max(0, 1 - x), 1 + x]``, as in torchvision.
        hue: shift uniform in ``[-hue, hue]``, in turns of the colour circle, at most 0.5.
        jitter_p: probability that the four above are applied, in a random order.
        grey_p: probability of dropping colour, after the jitter.
        blur_p: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation, uniform, in pixels of the slot's full-size view.
        blur_kernel: width of the blur's kernel in pixels, odd; None takes the odd number nearest a tenth of the view.
        solarize_p: probability of inverting values at or above ``solarize_threshold`` (0..1).
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 0.8
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize_p: float = 0.0
    solarize_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("jitter_p", "grey_p", "blur_p", "solarize_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a probability, 0 to 1, not {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} can't be negative, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue is a part of a turn, 0 to 0.5, not {self.hue}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise InputError(f"blur_sigma is a rising range of positive widths, not {self.blur_sigma}")
        if self.blur_kernel is not None and (self.blur_kernel < 1 or self.blur_kernel % 2 == 0):
            raise InputError(f"blur_kernel is an odd number of pixels, not {self.blur_kernel}")


@dataclass(frozen=True)
class Masking:
    """Patches of a view that the student does not see, in blocks; see ``masks.py``.

    Args:
        p: probability that a view is masked at all.
        ratio, spread: of a masked view, the part of its patches that is hidden is uniform in ``ratio`` ± ``spread``.
        per_view: draw masked or not and the ratio for every view by itself, as published. Selection would then mostly
            choose masked views, whose cost is higher; false draws them once for all candidates of a slot.
    """

    p: float = 0.5
    ratio: float = 0.3
    spread: float = 0.2
    per_view: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise InputError(f"mask p is a probability, 0 to 1, not {self.p}")
        if not 0 <= self.ratio - self.spread <= self.ratio + self.spread < 1:
            raise InputError(f"mask ratio {self.ratio} ± {self.spread} leaves the range 0 to 1")


@dataclass(frozen=True)
class Slot:
    """A kind of view: how it is cropped and coloured, how many candidates are drawn, how many of them are kept.

    Args:
        name: for messages and telemetry, such as ``"global A"``.
        size: side of the rendered square, in pixels.
        scale: range of the crop's area as a part of the image's.
        ratio: range of the crop's width / height, drawn log-uniformly.
        interpolation: ``"bilinear"`` (SimSiam, SimCLR) or ``"bicubic"`` (DINO, iBOT), antialiased.
        draw: candidates per image.
        keep: of these, how many are trained on.
        target: whether a view of this slot is predicted from others; a view that is not only predicts.
        flip_p: probability of a horizontal flip.
        photometric: colours, blur, solarization.
        mask: how its patches are hidden from the student; None: not at all.
        transform: a function of one's own in the place of ``photometric``, or of the whole view. It takes one view and
            returns it, before normalisation: float ``[3, size, size]`` of 0..1, or uint8. It may draw from the global
            generators of Python, NumPy and torch, which are seeded for every view, and gets what it names of the
            keyword arguments ``seed`` (an int, for generators of its own), ``size`` and ``slot`` (the name).
        transform_input: what it is given. ``"crop"``: float32 ``[3, h, h]`` of 0..1, cropped, resized and flipped, on
            the device of the images; where scoring is at a smaller size, so is this. ``"image"``: the decoded image,
            uint8 ``[3, H, W]`` on the CPU, of which it makes the whole view; ``scale``, ``ratio`` and ``flip_p`` are
            not used then, and boxes are those of whole images.
    """

    name: str = "view"
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    draw: int = 4
    keep: int = 2
    target: bool = True
    flip_p: float = 0.5
    photometric: Photometric = field(default_factory=Photometric)
    mask: Masking | None = None
    transform: Transform | None = None
    transform_input: TransformInput = "crop"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= self.draw:
            raise InputError(
                f"slot {self.name!r} keeps {self.keep} of {several(self.draw, 'view')}; "
                "draw at least as many as are kept"
            )
        if self.size < 1:
            raise InputError(f"slot {self.name!r}: size is a number of pixels, not {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"slot {self.name!r}: scale is a rising range within 0 to 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"slot {self.name!r}: ratio is a rising range of positive numbers, not {self.ratio}")
        if self.transform is not None and self.photometric != Photometric():
            raise InputError(f"slot {self.name!r}: give a transform or a photometric: one takes the other's place")
        if not 0 <= self.flip_p <= 1:
            raise InputError(f"slot {self.name!r}: flip_p is a probability, 0 to 1, not {self.flip_p}")


@dataclass(frozen=True)
class ViewPlan:
    """The slots of a method, target slots first, and what all of them share.

    Candidate ids run slot by slot, so the T target views are candidates 0..T-1.

    Args:
        slots: at least one, those with ``target`` first.
        mean, std: per channel, of pixels in 0..1; rendered views are ``(pixel - mean) / std``.
        colour: ``"matrix"`` (one 3x4 matrix and one clamp) or ``"exact"`` (torchvision's steps to the letter, slower).
        multiple: rendered sizes are rounded to a multiple of this, a ViT's patch.
    """

    slots: tuple[Slot, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    colour: ColourMode = "matrix"
    multiple: int = 1

    def __post_init__(self) -> None:
        if not self.slots or not self.slots[0].target:
            raise InputError("a plan needs at least one slot, and its first slot must be a target")
        targets = [slot.target for slot in self.slots]
        if targets != sorted(targets, reverse=True):
            raise InputError("a plan names its target slots first")

    @property
    def draw(self) -> int:
        """V, the candidates per image."""
        return sum(slot.draw for slot in self.slots)

    @property
    def keep(self) -> int:
        """K, the views kept per image."""
        return sum(slot.keep for slot in self.slots)

    @property
    def targets(self) -> int:
        """T, the target views among the candidates."""
        return sum(slot.draw for slot in self.slots if slot.target)

    @property
    def kept_targets(self) -> int:
        """K_T, the target views among the kept."""
        return sum(slot.keep for slot in self.slots if slot.target)

    def targets_of(self, views: int) -> int:
        """How many of so many views are targets: of the candidates T, of the kept K_T.

        Raises:
            InputError: it is neither the number of candidates nor of kept views.
        """
        if views not in (self.draw, self.keep):
            raise InputError(
                f"{several(views, 'view was', 'views were')} given; the plan draws {self.draw} and keeps {self.keep}"
            )
        return self.targets if views == self.draw else self.kept_targets

    @property
    def selects(self) -> bool:
        """Whether there is anything to choose."""
        return self.draw > self.keep

    def slot_of(self) -> list[int]:
        """The slot of every candidate, V numbers."""
        return [index for index, slot in enumerate(self.slots) for _ in range(slot.draw)]

    def slot_of_kept(self) -> list[int]:
        """The slot of every row of a choice, K numbers."""
        return [index for index, slot in enumerate(self.slots) for _ in range(slot.keep)]

    @property
    def transforms(self) -> bool:
        """Whether any slot has a transform of one's own."""
        return any(slot.transform is not None for slot in self.slots)

    def with_transform(self, transform: Transform, given: TransformInput = "crop") -> "ViewPlan":
        """The same plan with a transform in the place of every slot's colours, or of its views."""
        own: dict[str, Any] = {"photometric": Photometric(), "transform": transform, "transform_input": given}
        return replace(self, slots=tuple(replace(slot, **own) for slot in self.slots))

    def without_transforms(self) -> "ViewPlan":
        """The same plan, whose slots with a transform only crop."""
        return replace(self, slots=tuple(replace(slot, transform=None, transform_input="crop") for slot in self.slots))

    def without_selection(self) -> "ViewPlan":
        """The plain method: draw only what is kept."""
        return replace(self, slots=tuple(replace(slot, draw=slot.keep) for slot in self.slots))

    def with_draws(self, draws: int | tuple[int, ...]) -> "ViewPlan":
        """The same plan drawing other numbers of candidates: one number per slot, or one for a plan of one slot.

        Raises:
            InputError: the count of numbers does not fit the slots, or one is below what its slot keeps.
        """
        draws = (draws,) if isinstance(draws, int) else tuple(draws)
        if len(draws) != len(self.slots):
            kinds = several(len(self.slots), "kind of view", "kinds of view")
            names = ", ".join(f"{slot.name} (keeps {slot.keep})" for slot in self.slots)
            raise InputError(f"views: {len(draws)} given, but this method has {kinds}: {names}")
        slots = tuple(zip(self.slots, draws, strict=True))
        for slot, draw in slots:
            if draw < slot.keep:
                raise InputError(
                    f"views: {draw} is below the {slot.keep} that {slot.name!r} keeps; give {slot.keep} or more"
                )
        return replace(self, slots=tuple(replace(slot, draw=draw) for slot, draw in slots))


def size_at(plan: ViewPlan, slot: Slot, resolution: float = 1.0) -> int:
    """Side in pixels of a slot's views at a resolution: a whole number of ``plan.multiple``, at least one."""
    return whole_patches(slot.size * resolution, plan.multiple)


def whole_patches(size: float, patch: int) -> int:
    """The multiple of a patch nearest to a size, at least one."""
    return max(int(size / patch + 0.5), 1) * patch
