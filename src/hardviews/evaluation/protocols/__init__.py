"""Evaluation protocols: one file each, with a function of the file's name.

A protocol takes a ``Bench`` and its own settings, which become command-line options (``--knn.k``), and yields (name,
value). A value is a fraction, shown as a percentage, unless its name ends with one of ``PLAIN``.
"""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module

from hardviews.errors import unknown

Protocol = Callable[..., Iterator[tuple[str, float]]]

CHOSEN = ("_rate", "_c")  # settings that protocols have chosen
PLAIN = (*CHOSEN, "rank", "uniformity", "alignment")


def __dir__() -> list[str]:
    return ["find", "names"]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Protocol:
    """The protocol with that name.

    Raises:
        InputError: there is none; the message suggests similar names.
    """
    if name not in names():
        raise unknown("protocol", name, names())
    protocol: Protocol = getattr(import_module(f"{__name__}.{name}"), name)
    return protocol


def as_text(name: str, value: float) -> str:
    """Formats a value for display."""
    return f"{value:.4g}" if name.endswith(PLAIN) else f"{value:.2%}"
