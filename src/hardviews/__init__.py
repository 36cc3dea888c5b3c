"""Pretrain vision backbones on the hardest of several random views of every image."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("hardviews")

if TYPE_CHECKING:
    from hardviews.methods.base import Method
    from hardviews.selection.costs import Costs
    from hardviews.selection.hard_views import Choice, HardViews, pairwise
    from hardviews.views.draw import Views, draw
    from hardviews.views.images import ImageBatch
    from hardviews.views.plan import Photometric, Slot, ViewPlan
    from hardviews.views.render import render

__all__ = [
    "Choice",
    "Costs",
    "HardViews",
    "ImageBatch",
    "Method",
    "Photometric",
    "Slot",
    "ViewPlan",
    "Views",
    "draw",
    "pairwise",
    "render",
]

_HOME = {
    "Choice": "selection.hard_views",
    "Costs": "selection.costs",
    "HardViews": "selection.hard_views",
    "ImageBatch": "views.images",
    "Method": "methods.base",
    "Photometric": "views.plan",
    "Slot": "views.plan",
    "ViewPlan": "views.plan",
    "Views": "views.draw",
    "draw": "views.draw",
    "pairwise": "selection.hard_views",
    "render": "views.render",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `hardviews --help` must not wait for it.
    if name in _HOME:
        return getattr(import_module(f"hardviews.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hardviews' has no attribute {name!r}")
