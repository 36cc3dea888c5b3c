"""Slots and plans: which views to draw of an image, and how many to keep. Numbers only, no tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hardviews.errors import InputError
from hardviews.views.photometric import Photometric as Photometric  # may be imported from here too
from hardviews.wording import several

Interpolation = Literal["bilinear", "bicubic"]
ColourMode = Literal["matrix", "exact"]
TransformInput = Literal["crop", "image"]
# One view's pixels, and by name what it takes of seed, size and slot, to the view's pixels: see ``transforms.py``.
Transform = Callable[..., Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Masking:
    """Blocks of patches hidden from the student; see ``masks.py``.

    Args:
        p: probability that a view is masked.
        ratio, spread: a masked view hides a fraction of its patches that is uniform in ``ratio`` ± ``spread``.
        per_view: draw masking and ratio separately for every view, as published. Selection then mostly chooses masked
            views, since they cost more; false draws both once for all candidates of a slot.
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
    """A kind of view: crop, colours, number of candidates drawn, and number kept.

    Args:
        name: for messages and telemetry, such as ``"global A"``.
        size: side of the rendered square in pixels.
        scale: range of the crop's area as a fraction of the image's.
        ratio: range of the crop's width / height, drawn log-uniformly.
        interpolation: ``"bilinear"`` (SimSiam, SimCLR) or ``"bicubic"`` (DINO, iBOT), antialiased.
        draw: candidates per image.
        keep: candidates to train on.
        target: whether other views predict a view of this slot; views of other slots only predict.
        flip_p: probability of a horizontal flip.
        photometric: colours, blur, solarization.
        mask: hides patches from the student; None for no mask.
        transform: a function that replaces ``photometric``, or the whole view. It takes one view and returns it before
            normalisation: float ``[C, size, size]`` in 0..1, or uint8. It may draw from the global generators of
            Python, NumPy and torch, which are seeded for every view. Of the keyword arguments ``seed`` (an int, for its
            own generators), ``size`` and ``slot`` (the name) it gets those that it names.
        transform_input: what the transform is given. ``"crop"``: float32 ``[C, h, h]`` in 0..1, cropped, resized and
            flipped, on the images' device; smaller where scoring or training is. ``"image"``: the decoded image,
            ``[C, H, W]`` as stored on the CPU, from which it makes the whole view; ``scale``, ``ratio`` and ``flip_p``
            are then unused, and boxes are those of whole images.
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
            raise InputError(f"slot {self.name!r}: scale is an increasing range within 0 to 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"slot {self.name!r}: ratio is an increasing range of positive numbers, not {self.ratio}")
        if self.transform is not None and self.photometric != Photometric():
            raise InputError(f"slot {self.name!r}: give a transform or a photometric: one takes the other's place")
        if not 0 <= self.flip_p <= 1:
            raise InputError(f"slot {self.name!r}: flip_p is a probability, 0 to 1, not {self.flip_p}")


@dataclass(frozen=True)
class ViewPlan:
    """The slots of a method, target slots first, and the settings they share.

    Candidate ids are numbered slot by slot, so the T target views are candidates 0..T-1.

    Args:
        slots: at least one; those with ``target`` first.
        mean, std: per channel, of pixels in 0..1; rendered views are ``(pixel - mean) / std``. Their length is the
            number of channels C.
        colour: ``"matrix"`` (one 3x4 matrix and one clamp) or ``"exact"`` (torchvision's own steps, slower).
        multiple: rendered sizes are rounded to a multiple of this: a ViT's patch size.
        crops: how boxes are drawn: ``"independent"``, ``"joint_crop(BETA)"`` or ``"contrastive_crop(ALPHA)"``
            (``crops.py``).
        rgb: whether channels are red, green and blue. If not, no slot may change saturation, hue, grey or solarize.
    """

    slots: tuple[Slot, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    colour: ColourMode = "matrix"
    multiple: int = 1
    crops: str = "independent"
    rgb: bool = True

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"mean has {len(self.mean)} channels and std {len(self.std)}; give one number for each")
        if self.rgb and self.channels != 3:
            raise InputError(f"RGB has three channels, not {self.channels}; give rgb=False")
        for slot in self.slots:
            if not self.rgb and slot.photometric.of_rgb:
                names = ", ".join(slot.photometric.of_rgb)
                raise InputError(f"slot {slot.name!r}: {names} needs RGB; use for_channels(), which leaves it out")
        if not self.slots or not self.slots[0].target:
            raise InputError("a plan needs at least one slot, and its first slot must be a target")
        targets = [slot.target for slot in self.slots]
        if targets != sorted(targets, reverse=True):
            raise InputError("a plan lists its target slots first")

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

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
        """The number of targets among ``views`` views: T of the candidates, K_T of the kept.

        Raises:
            InputError: ``views`` is neither the number of candidates nor of kept views.
        """
        if views not in (self.draw, self.keep):
            raise InputError(
                f"{several(views, 'view was', 'views were')} given; the plan draws {self.draw} and keeps {self.keep}"
            )
        return self.targets if views == self.draw else self.kept_targets

    @property
    def selects(self) -> bool:
        """Whether any slot draws more than it keeps."""
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

    @property
    def tones(self) -> bool:
        """Whether any slot changes channels one by one."""
        return any(slot.photometric.tones for slot in self.slots)

    def for_channels(self, mean: tuple[float, ...], std: tuple[float, ...], rgb: bool = False) -> "ViewPlan":
        """The same plan for other channels; what only RGB has is left out unless they are ``rgb``."""
        slots = self.slots
        if not rgb:
            none: dict[str, Any] = dict.fromkeys(("saturation", "hue", "grey_p", "solarize_p"), 0.0)
            slots = tuple(replace(slot, photometric=replace(slot.photometric, **none)) for slot in slots)
        return replace(self, slots=slots, mean=mean, std=std, rgb=rgb)

    def with_transform(self, transform: Transform, given: TransformInput = "crop") -> "ViewPlan":
        """The same plan with a transform in the place of every slot's colours, or of its views."""
        own: dict[str, Any] = {"photometric": Photometric(), "transform": transform, "transform_input": given}
        return replace(self, slots=tuple(replace(slot, **own) for slot in self.slots))

    def without_transforms(self) -> "ViewPlan":
        """The same plan, whose slots with a transform only crop."""
        return replace(self, slots=tuple(replace(slot, transform=None, transform_input="crop") for slot in self.slots))

    def without_selection(self) -> "ViewPlan":
        """The plan of the plain method: draws only what it keeps."""
        return replace(self, slots=tuple(replace(slot, draw=slot.keep) for slot in self.slots))

    def with_draws(self, draws: int | tuple[int, ...]) -> "ViewPlan":
        """This plan with other numbers of candidates: one number per slot, or a single number if the plan has one slot.

        Raises:
            InputError: there are not as many numbers as slots, or one is below what its slot keeps.
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
    """Side in pixels of a slot's views at a relative resolution: a multiple of ``plan.multiple``, at least one."""
    return whole_patches(slot.size * resolution, plan.multiple)


def whole_patches(size: float, patch: int) -> int:
    """The multiple of the patch size nearest to a size, at least one."""
    return max(int(size / patch + 0.5), 1) * patch
