"""What is measured of a run on the way."""

from collections.abc import Callable, Mapping

import torch
from lightning_fabric import Fabric
from torch import nn

from hardviews.data.sources import ImageSource
from hardviews.evaluation.features import Features, Preprocessing, extract
from hardviews.evaluation.protocols.knn import knn_accuracy
from hardviews.evaluation.rank import effective_rank
from hardviews.evaluation.splits import held_out
from hardviews.training.monitor import Evaluate
from hardviews.training.options import PretrainOptions
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream


def preprocessing_of(options: PretrainOptions, plan: ViewPlan) -> Preprocessing:
    """How images are made ready to be measured, of settled options."""
    return Preprocessing(options.image_size or 224, plan.mean, plan.std, options.crop or 0.875)


def create_evaluate(
    options: PretrainOptions, source: ImageSource, test: ImageSource | None, plan: ViewPlan, fabric: Fabric
) -> Evaluate | None:
    """The kNN accuracy and the rank of a backbone, and once the accuracy of raw pixels; None where nothing is
    labelled."""
    if source.labels is None:
        return None
    preprocessing = preprocessing_of(options, plan)

    def evaluate(backbone: nn.Module, pixels: bool, on_batch: Callable[[int], None]) -> Mapping[str, float]:
        def features(of: ImageSource) -> Features:
            with fabric.autocast():
                return extract(backbone, of, preprocessing, pixels=pixels, workers=options.workers, on_batch=on_batch)

        bank = features(source)
        if test is None:
            _, query_rows = held_out(len(source), stream(options.seed, "held-out"))
            asked = torch.isin(bank.rows, query_rows)
            bank, queries = bank[~asked], bank[asked]
        else:
            queries = features(test)
        values = {
            "knn_top1": knn_accuracy(bank, queries, options.knn_k, options.knn_temperature, fabric.device),
            "embedding_rank": effective_rank(queries.vectors),
        }
        if bank.pixels is not None and queries.pixels is not None:
            raw = [Features(part.pixels, part.labels, part.rows) for part in (bank, queries) if part.pixels is not None]
            values["knn_top1_pixels"] = knn_accuracy(raw[0], raw[1], options.knn_k, device=fabric.device)
        return values

    return evaluate
