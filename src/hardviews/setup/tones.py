"""What views change in their channels one by one (``--plan.gain`` and the like), and what only RGB has."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from hardviews.errors import InputError
from hardviews.options.plan import ToneOptions, TransformOptions
from hardviews.views.plan import ViewPlan

NOT_RGB = ("grey_medical", "ct", "multispectral")  # recipes
OF_RGB = {"saturation": "saturation", "hue": "hue", "grey_p": "grey", "solarize_p": "solarize"}


def of_the_method(plan: Mapping[str, Any], default_plan: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a plan that its method takes; the others are of every method."""
    every = {field.name for kind in (TransformOptions, ToneOptions) for field in fields(kind)}
    own = inspect.signature(default_plan).parameters
    return {name: value for name, value in plan.items() if name in own or name not in every}


def with_tones(plan: ViewPlan, arguments: Mapping[str, Any], taken: Mapping[str, Any]) -> ViewPlan:
    """The plan whose slots all change their channels as ``arguments`` say.

    Args:
        plan: of the method.
        arguments: of ``--plan``.
        taken: those that the method takes itself.

    Raises:
        InputError: a number is out of range, or a transform takes the place of all colours.
    """
    names = [field.name for field in fields(ToneOptions) if field.name not in taken]
    tones = {name: arguments[name] for name in names if arguments.get(name) is not None}
    if not tones:
        return plan
    if arguments.get("transform") is not None:
        name = next(iter(tones)).replace("_", "-")
        raise InputError(f"plan.{name}: --plan.transform takes the place of all colours; leave one of them out")
    slots = (replace(slot, photometric=replace(slot.photometric, **tones)) for slot in plan.slots)
    return replace(plan, slots=tuple(slots))


def left_out(plan: ViewPlan, rgb: bool, recipe: str | None = None) -> str:
    """A line on what the method's views change that only RGB has; empty if nothing is left out, or nobody expects it:
    by a recipe for other channels."""
    found = {name for slot in plan.slots for name in slot.photometric.of_rgb}
    if rgb or not found or recipe in NOT_RGB:
        return ""
    names = [word for name, word in OF_RGB.items() if name in found]
    words = f"{', '.join(names[:-1])} and {names[-1]} are" if len(names) > 1 else f"{names[0]} is"
    others = "--plan.gain, --plan.offset, --plan.gamma and --plan.drop-p"
    return f"views: {words} left out, which only RGB has; {others} change other channels"
