"""Self-supervised methods, one file each, found by file name. Importing this imports no torch."""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hardviews.errors import InputError, unknown

if TYPE_CHECKING:
    from hardviews.methods.base import Method


def __getattr__(name: str) -> Any:
    """``SimCLR`` is the class of ``simclr.py``."""
    if name.lower() in names() and (found := find(name.lower())).__name__ == name:
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["find", "names", *(find(name).__name__ for name in names())]


def names() -> list[str]:
    """The methods that come with hardviews: the names of the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find(name: str) -> "type[Method[Any]]":
    """The method with that file name, or at a dotted path ``package.module.Class`` to your own.

    Raises:
        InputError: there is none; the message suggests similar names.
    """
    from hardviews.methods.base import Method

    if "." in name:
        module_name, _, class_name = name.rpartition(".")
        try:
            found = getattr(import_module(module_name), class_name, None)
        except (ImportError, ValueError) as error:
            raise InputError(f"method {name!r}: {error}; give package.module.Class, importable from here") from error
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise InputError(f"method {name!r}: {module_name} has no Method class named {class_name}")
        return found
    if name not in names():
        raise unknown("method", name, names())
    module = import_module(f"{__name__}.{name}")
    (found,) = (
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Method) and item.__module__ == module.__name__
    )
    return found


def written(name: str) -> str:
    """A method's name as it is written: that of its class (``SimCLR``), also where that can't be found any more."""
    try:
        return find(name).__name__
    except InputError:
        return name.rpartition(".")[2]
