"""Pretrain vision backbones on the hardest of several random views of every image."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("hardviews")

if TYPE_CHECKING:
    from hardviews import methods
    from hardviews.api.comparison import compare, report
    from hardviews.api.models import embed, evaluate, export, load
    from hardviews.api.pretrain import pretrain
    from hardviews.api.run import PretrainedRun
    from hardviews.data.sources import as_source
    from hardviews.errors import InputError, RunError, StoppedError
    from hardviews.evaluation import protocols
    from hardviews.methods.base import Method
    from hardviews.models.load import LoadedModel
    from hardviews.options.pretraining import BackboneOptions
    from hardviews.selection import policies
    from hardviews.selection.costs import Costs
    from hardviews.selection.hard_views import Choice, HardViews, pairwise
    from hardviews.views.draw import Views, draw
    from hardviews.views.images import ImageBatch
    from hardviews.views.plan import Photometric, Slot, ViewPlan
    from hardviews.views.render import render

__all__ = [
    "BackboneOptions",
    "Choice",
    "Costs",
    "HardViews",
    "ImageBatch",
    "InputError",
    "LoadedModel",
    "Method",
    "Photometric",
    "PretrainedRun",
    "RunError",
    "Slot",
    "StoppedError",
    "ViewPlan",
    "Views",
    "as_source",
    "compare",
    "draw",
    "embed",
    "evaluate",
    "export",
    "load",
    "methods",
    "pairwise",
    "policies",
    "pretrain",
    "protocols",
    "render",
    "report",
]

_HOME = {
    "BackboneOptions": "options.pretraining",
    "Choice": "selection.hard_views",
    "Costs": "selection.costs",
    "HardViews": "selection.hard_views",
    "ImageBatch": "views.images",
    "InputError": "errors",
    "LoadedModel": "models.load",
    "Method": "methods.base",
    "Photometric": "views.plan",
    "PretrainedRun": "api.run",
    "RunError": "errors",
    "Slot": "views.plan",
    "StoppedError": "errors",
    "ViewPlan": "views.plan",
    "Views": "views.draw",
    "as_source": "data.sources",
    "compare": "api.comparison",
    "draw": "views.draw",
    "embed": "api.models",
    "evaluate": "api.models",
    "export": "api.models",
    "load": "api.models",
    "pairwise": "selection.hard_views",
    "pretrain": "api.pretrain",
    "render": "views.render",
    "report": "api.comparison",
}
_MODULES = {"methods": "methods", "policies": "selection.policies", "protocols": "evaluation.protocols"}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `hardviews --help` must not wait for it.
    if name in _MODULES:
        return import_module(f"hardviews.{_MODULES[name]}")
    if name in _HOME:
        return getattr(import_module(f"hardviews.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hardviews' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
