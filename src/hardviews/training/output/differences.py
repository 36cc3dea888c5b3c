"""Differences between two configurations, in terms of command-line options."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from hardviews import methods
from hardviews.options.pretraining import PretrainOptions
from hardviews.views.pixels import RGB

NAMED = 5  # maximum differences named in a message; it counts the rest


class Difference(NamedTuple):
    """A setting and its two values, as typed."""

    option: str
    there: str
    here: str

    def __str__(self) -> str:
        return f"{self.option} is {self.there} there and {self.here} here"


def differences(there: Mapping[str, Any], here: Mapping[str, Any], free: Collection[str] = ()) -> list[Difference]:
    """All settings with different values, in the order of ``here``; a missing setting counts as not given.

    Args:
        there, here: nested dictionaries of plain values, as made by ``plain``.
        free: top-level settings that may differ.
    """
    first, second = (_flat({key: value for key, value in one.items() if key not in free}) for one in (there, here))
    found = []
    for option in dict.fromkeys([*second, *first]):
        values = first.get(option), second.get(option)
        if values[0] != values[1]:
            typed = [_typed(value) for value in values]
            if typed[0] == typed[1]:  # a number and a string of the same digits
                typed = [repr(value) for value in values]
            found.append(Difference(option, *typed))
    return found


def with_defaults(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run ``there``, with those of ``here`` that its version lacked: it did what they do by default,
    which their dataclass says, or the signatures of the method and of its plan."""
    defaults = {field.name: field.default for field in fields(PretrainOptions) if field.name in here}
    defaults |= {"pixels": RGB.saved()} if "pixels" in here else {}  # all that it had
    known: dict[str, Any] = plain(defaults) | plain(there)
    name, other = (one.get("method", {}).get("name") for one in (known, here))
    if name and name == other:
        found = methods.find(name)
        for group, signed in (("method", found), ("plan", found.default_plan)):
            own = {key: value.default for key, value in inspect.signature(signed).parameters.items()}
            known[group] = plain({key: own[key] for key in own.keys() & here[group].keys()}) | known[group]
    return known


def plain(value: Any) -> Any:
    """Tuples as lists and keys as strings, so that YAML and JSON return what was written."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def differences_text(found: list[Difference]) -> str:
    """The first few in one line, and the number of the rest."""
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(map(str, found[:NAMED])) + more


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by option: ``--image-size``, ``--backbone``, ``--backbone.channels``, ``--method.dim``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if prefix in ("backbone.", "method.") and key == "name":
            name = prefix[:-1]
        elif prefix == "backbone." and key == "keywords":
            name = "backbone"  # timm's keywords have no prefix of their own and keep timm's spelling
        else:
            name = prefix + (key if prefix == "backbone." else key.replace("_", "-"))
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[f"--{name}"] = value
    return flat


def _typed(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return str(value)
