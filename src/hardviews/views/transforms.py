"""Augmentations of one's own: a function in the place of a slot's colours, or of the whole view.

Nothing here draws: every view has a seed (``Views.seed``), drawn with all its other numbers. The global generators of
Python, NumPy and torch are seeded by it before each call and put back afterwards, so a view has the same pixels in
scoring and in training, after a resume, in any micro-batch and on any number of processes.
"""

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, Transform, ViewPlan, size_at

ROUNDING = 0.01  # that values may lie outside of 0..1


def apply_transforms(images: ImageBatch, views: Views, plan: ViewPlan, rendered: list[Tensor]) -> None:
    """Puts what the slots' transforms return in the place of rendered views, and normalises all views; in place.

    Args:
        images: B of any sizes.
        views: K of each, drawn from ``plan``.
        plan: at least one of its slots has a transform.
        rendered: K views ``[B, C, h, w]`` of 0..1, cropped, resized and flipped.

    Raises:
        InputError: a transform fails, or returns something else than it must.
    """
    if views.seed is None:
        raise InputError("views were drawn from a plan without transforms: draw them from the plan that is rendered")
    device, seeds = images.device, views.seed.tolist()
    mean, std = (torch.tensor(numbers, device=device)[:, None, None] for numbers in (plan.mean, plan.std))
    slots = [plan.slots[slot] for slot in views.slot.tolist()]
    whole = any(slot.transform is not None and slot.transform_input == "image" for slot in slots)
    here = images.to("cpu") if whole else images
    with _generators_kept(device):
        for slot, view, of_view in zip(slots, rendered, seeds, strict=True):
            if slot.transform is not None:
                for b, seed in enumerate(of_view):
                    if slot.transform_input == "image":
                        given = here.image(b).clone(memory_format=torch.contiguous_format)  # it may be changed in place
                        view[b] = _whole_view(slot, slot.transform, given, seed, plan, view.shape[-1], b == 0)
                    else:
                        view[b] = _called(slot, slot.transform, view[b], seed, view.shape[-1], b == 0)
            view.sub_(mean).div_(std)


def _whole_view(
    slot: Slot, transform: Transform, image: Tensor, seed: int, plan: ViewPlan, side: int, look: bool
) -> Tensor:
    """The view at full size, shrunk where it is wanted smaller: the transform knows of one size only."""
    full = size_at(plan, slot)
    found = _called(slot, transform, image, seed, full, look)
    if side == full:
        return found
    return F.interpolate(found[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)


def _called(slot: Slot, transform: Transform, given: Tensor, seed: int, side: int, look: bool) -> Tensor:
    """What a transform returns for one view, float32 ``[C, side, side]``; ``look``: whether values are looked at too,
    for which a GPU has to be waited for."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the one that transforms draw from
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, which nobody restores
    if given.is_cuda:
        torch.cuda.manual_seed(seed)
    known: dict[str, Any] = {"seed": seed, "size": side, "slot": slot.name}
    channels = given.shape[0]
    name, wanted = (
        transform_name(transform).removeprefix("object:"),
        f"it must return float [{channels}, {side}, {side}] of 0..1, or uint8",
    )
    try:
        found = transform(given, **{key: known[key] for key in _keywords(transform)})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of the user's code, which can raise anything
        line = " ".join(str(error).split())[:160]
        raise InputError(f"transform {name}: {type(error).__name__}: {line}") from error
    if not isinstance(found, Tensor):
        raise InputError(f"transform {name} returned {type(found).__name__}; {wanted}")
    if found.shape != (channels, side, side) or not (found.is_floating_point() or found.dtype == torch.uint8):
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(f"transform {name} returned {kind} {list(found.shape)}; {wanted}")
    if found.dtype == torch.uint8:
        return found.float() / 255
    if look:
        low, high = (float(value) for value in found.aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise InputError(
                f"transform {name} returned values from {low:.3g} to {high:.3g}; {wanted}; leave Normalize out, which "
                "comes afterwards"
            )
    return found.float()


def check_transforms(plan: ViewPlan) -> None:
    """Tries the transforms of a plan on a picture, each by several seeds.

    Raises:
        InputError: one fails, returns something else than it must, or draws from a generator that is not seeded.
    """
    for slot in plan.slots:
        if slot.transform is None:
            continue
        side, name = size_at(plan, slot), transform_name(slot.transform).removeprefix("object:")
        size = (2 * side, 2 * side + 1) if slot.transform_input == "image" else (side, side)
        picture = torch.rand(plan.channels, *size, generator=torch.Generator().manual_seed(0))
        if slot.transform_input == "image":
            picture = (picture * 255).byte()
        with _generators_kept(picture.device):
            for seed in range(8):  # one of which meets what is done by chance
                first, again = (_called(slot, slot.transform, picture.clone(), seed, side, True) for _ in range(2))
                if not torch.equal(first, again):
                    raise InputError(
                        f"transform {name} makes other pixels of the same view: it draws "
                        "from a generator of its own; let it take a keyword argument seed, to seed that generator"
                    )


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Puts the global generators back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@lru_cache(maxsize=32)
def _keywords(transform: Transform) -> tuple[str, ...]:
    """Which of seed, size and slot a transform takes."""
    try:
        parameters = inspect.signature(transform).parameters.values()
    except (TypeError, ValueError):  # of C
        return ()
    given = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return tuple(name for name in ("seed", "size", "slot") if name in given)


def transform_name(transform: Any) -> str:
    """The name of a transform in messages and ``config.yaml``: its import path, or its class's."""
    if isinstance(transform, str):
        return transform
    named = transform if hasattr(transform, "__qualname__") else type(transform)
    return f"object:{named.__module__}.{named.__qualname__}"
