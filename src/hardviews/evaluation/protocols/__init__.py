"""What a backbone is asked: one file per protocol, with a function of the file's name.

It takes a ``Bench`` and settings of its own, which are options of the command line (``--knn.k``), and yields (name,
value). A value is a part of one, shown as a percentage, unless its name ends as one of ``PLAIN``.
"""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module

from hardviews.errors import unknown

Protocol = Callable[..., Iterator[tuple[str, float]]]

CHOSEN = ("_rate", "_c")  # what protocols have chosen on the way
PLAIN = (*CHOSEN, "rank", "uniformity", "alignment")


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: there is none; nearest names are suggested.
    """
    if name not in names():
        raise unknown("protocol", name, names())
    protocol: Protocol = getattr(import_module(f"{__name__}.{name}"), name)
    return protocol


def as_text(name: str, value: float) -> str:
    """A value as it is shown."""
    return f"{value:.4g}" if name.endswith(PLAIN) else f"{value:.2%}"
