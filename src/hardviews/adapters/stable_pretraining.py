"""Hard views in stable-pretraining, whose batches are ``{"views": [{"image": [B, 3, h, w], "label": [B]}, ...]}``."""

from typing import Any

from torch import Tensor

from hardviews.adapters.lightning import HardViewsCallback


class StablePretrainingCallback(HardViewsCallback):
    """As ``HardViewsCallback``, in the dictionaries of stable-pretraining. What a view has beside its image, such as
    its label, is the same for all views of an image, and stays."""

    def candidates(self, batch: Any) -> list[Tensor]:
        return [view["image"] for view in batch["views"]]

    def replace(self, batch: Any, kept: list[Tensor], ids: Tensor) -> None:
        batch["views"] = [{**view, "image": image} for view, image in zip(batch["views"], kept, strict=False)]
