"""Published runs and settings for small sets, one function each, found by the function's name. Importing this imports
no torch."""

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module

from hardviews.errors import unknown
from hardviews.options.pretraining import PretrainOptions

Recipe = Callable[..., PretrainOptions]  # some take the number of ``images``


def recipes() -> dict[str, Recipe]:
    """All recipes: the public functions in this folder's files that return the options of a run."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {
        name: item
        for module in modules
        for name, item in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(item).return_annotation is PretrainOptions
    }


def find(name: str) -> Recipe:
    """The recipe with that name.

    Raises:
        InputError: there is none; the message suggests similar names.
    """
    found = recipes()
    if name not in found:
        raise unknown("recipe", name, found)
    return found[name]


def follows_size(name: str) -> bool:
    """Whether the recipe's options follow the size of the data."""
    return "images" in inspect.signature(find(name)).parameters


def fitted(name: str, images: int | None = None) -> PretrainOptions:
    """The options of a recipe, for so many images if it follows their number."""
    return find(name)(images) if images is not None and follows_size(name) else find(name)()
