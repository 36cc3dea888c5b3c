"""Python runs this at the start of every process of the tests (``conftest.py`` sets its path): it saves two seconds.

lightning_fabric imports torchmetrics, which imports transformers and more, only to compare a version that nothing here
needs. Users have torchmetrics only beside the Lightning trainer.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class NoVersionOfTorchmetrics:
    """Hides torchmetrics from ``compare_version`` of lightning_utilities, and from nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        frame = sys._getframe(1) if name == "torchmetrics" else None
        while frame is not None:
            if frame.f_code.co_name == "compare_version":
                raise ModuleNotFoundError(name)
            frame = frame.f_back
        return None


sys.meta_path.insert(0, NoVersionOfTorchmetrics())
