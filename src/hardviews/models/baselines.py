"""What an accuracy is compared with: chance, raw pixels, and the backbone before training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hardviews.analysis.verdict import standard_error
from hardviews.console import Say
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import Features, extract
from hardviews.evaluation.protocols.knn import K, knn_accuracy
from hardviews.evaluation.rng import seeded
from hardviews.models.load import LoadedModel, named_subject
from hardviews.models.untrained import untrained_backbone
from hardviews.networks.backbone_sources import library_of
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.pretraining import BackboneOptions
from hardviews.training.output.run_folder import RunFolder

SMALL = 50_000  # images that are encoded once more unasked


def beside(
    figures: Mapping[str, float], bench: Bench, subject: LoadedModel, options: EvaluateOptions,
    settings: Mapping[str, Any], say: Say,
) -> dict[str, Any]:  # fmt: skip
    """What accuracies over all test images are to be compared with, as ``{"beside": ...}``: ``errors``, the standard
    error of each by its name; ``chance``, of an answer that is always the most frequent class of the test images; and
    for kNN, with ``--baselines``, ``raw pixels`` and ``untrained``. Empty without such accuracies.

    Args:
        figures: of the backbone.
        bench: that they were measured on.
        subject: the model.
        options: of the evaluation.
        settings: of ``knn``.
        say: takes a line where there are too many images.
    """
    accuracies = {name: value for name, value in figures.items() if "_top1" in name}
    if not accuracies:
        return {}
    labels = bench.labels[1]
    count = len(labels) - bench.left_out.get("test features", 0)
    found: dict[str, Any] = {
        "errors": {name: standard_error(value, count) for name, value in accuracies.items()},
        "chance": (labels == labels.mode().values).double().mean().item(),
    }
    if options.baselines == "off" or not any(name.startswith("knn_top1") for name in accuracies):
        return {"beside": found}
    images = sum(map(len, bench.sources))
    if options.baselines == "auto" and images > SMALL:
        say(f"raw pixels and the untrained backbone are not measured, of {images:,} images; --baselines on does so")
        return {"beside": found}
    return {"beside": found | knn_of_others(bench, untrained(subject, options), settings)}


def knn_of_others(bench: Bench, network: nn.Module | None, settings: Mapping[str, Any]) -> dict[str, float]:
    """kNN accuracy of raw pixels, and of the backbone before training if there is one, with the settings of ``knn``."""
    k = settings.get("k", K)
    k = k[0] if isinstance(k, list) else k
    encoder = (bench.backbone if network is None else network).to(bench.device)
    parts = []
    for source, labels, name in zip(bench.sources, bench.labels, ("baselines", "test baselines"), strict=True):
        with bench.autocast():
            part = extract(
                encoder, source, bench.ready(source), batch_size=bench.batch_size, workers=bench.workers, pixels=True,
                on_batch=bench.progress(name, len(source)),
            )  # fmt: skip
        parts.append(replace(part, labels=labels[part.rows]))
    pixels = [Features(part.pixels, part.labels, part.rows) for part in parts if part.pixels is not None]
    temperature = settings.get("temperature", 0.07)
    sets = {"raw pixels": pixels} | ({} if network is None else {"untrained": parts})
    return {name: knn_accuracy(bank, queries, k, temperature, bench.device) for name, (bank, queries) in sets.items()}


def untrained(subject: LoadedModel, options: EvaluateOptions) -> nn.Module | None:
    """The backbone with the random weights that a run began with, or of another model with random weights; None where
    it began with others, or can't be built again."""
    size = subject.preprocessing.image_size
    if not subject.config:
        own = options.checkpoint is not None or not options.pretrained
        if own or library_of(subject.name) not in ("timm", "torchvision"):
            return None
        with seeded(subject.seed):
            return named_subject(subject.name, None, False, size).backbone
    config = subject.config
    network = BackboneOptions(**config["backbone"])
    given = network.pretrained or config.get("init") or RunFolder(Path(subject.name)).extension()
    if given or library_of(network.name) not in ("timm", "torchvision"):
        return None
    return untrained_backbone(config)
