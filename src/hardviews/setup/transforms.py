"""The augmentations of one's own that a run is given (``--plan.transform``)."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.views.plan import Transform, ViewPlan
from hardviews.views.transforms import transform_name
from hardviews.wording import several


def with_transforms(plan: ViewPlan, options: PretrainOptions) -> ViewPlan:
    """The plan with the transforms that ``options.plan`` names, or holds as objects.

    Raises:
        InputError: one can't be imported or called, their number is not that of the kinds of view, or the policy
            compares boxes that there are not.
    """
    given: Any = options.plan.get("transform")
    what: Any = options.plan.get("transform_input") or "crop"
    if given is None:
        if "transform_input" in options.plan:
            raise InputError("plan.transform-input: give --plan.transform too")
        return plan
    if what not in ("crop", "image"):
        raise InputError(f"plan.transform-input: {what!r} is neither crop nor image")
    every = list(given) if isinstance(given, list | tuple) else [given] * len(plan.slots)
    if len(every) != len(plan.slots):
        kinds = several(len(plan.slots), "kind of view", "kinds of view")
        raise InputError(f"plan.transform: {len(every)} given, but this method has {kinds}; give one, or one for each")
    if what == "image" and options.policy in ("lowest_iou", "highest_iou"):
        raise InputError(
            f"policy: {options.policy} compares crops, and with --plan.transform-input image there are none"
        )
    own = [plan.with_transform(_found(one), what).slots for one in every]
    return replace(plan, slots=tuple(slots[place] for place, slots in enumerate(own)))


def _found(named: str | Transform) -> Transform:
    if not isinstance(named, str):
        found: Any = named
    elif named.startswith("object:"):
        raise InputError(f"plan.transform: {named} was given as an object in Python: give it again, or a path to it")
    else:
        module, colon, name = named.partition(":")
        try:
            found = getattr(import_module(module), name) if colon and module else None
        except Exception as error:  # of the user's code, which can raise anything
            line = " ".join(str(error).split())[:160]
            raise InputError(f"plan.transform: {named}: {type(error).__name__}: {line}") from error
    if isinstance(found, type) or not callable(found):
        raise InputError(f"plan.transform: {named} is no function or object to call; give package.module:name of one")
    return found  # type: ignore[no-any-return]


def names_of_transforms(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a plan as ``config.yaml`` holds them."""
    given = plan.get("transform")
    if given is None:
        return dict(plan)
    names = [transform_name(one) for one in given] if isinstance(given, list | tuple) else transform_name(given)
    return {**plan, "transform": names}
