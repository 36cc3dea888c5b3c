"""The README.md of an exported backbone: what it is, how it was trained, how it is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hardviews.analysis.measured import SIZES, images_in_words

LABELS = {
    "knn_top1": "kNN accuracy",
    "knn_top1_untrained": "kNN accuracy before training",
    "knn_top1_pixels": "kNN accuracy of raw pixels",
    "embedding_rank": "rank of the embedding",
}


def model_card(
    title: str, library: str, facts: Mapping[str, Any], images: Mapping[str, Any], config: Mapping[str, Any],
    figures: Mapping[str, float], code: str, notes: Sequence[str], measured: Mapping[str, str], tested: str,
) -> str:  # fmt: skip
    """A model card as the Hugging Face Hub shows it.

    Args:
        title: what it is.
        library: that loads it, as the Hub names it.
        facts: of the network, name to value.
        images: ``input_size``, ``mean``, ``std``, ``crop_pct`` and ``interpolation``.
        config: of the run, empty where it was none.
        figures: that the run measured.
        code: that loads it, run in its folder.
        notes: what else one must know.
        measured: of the backbone afterwards, name and test set to value.
        tested: the test set that the run measured on.
    """
    method = [config["method"]["name"].rpartition(".")[2]] if config else []
    head = {
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["image-feature-extraction", *(["self-supervised", "hard-view-selection"] if config else []), *method],
    }
    size = images["input_size"][-1]
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        "A backbone without classifier: images to feature vectors."
        + (" Pretrained without labels by [hardviews](https://arxiv.org/abs/2310.03940)." if config else ""),
        _table(("network", ""), facts),
        f"## Loading\n\nIn this folder:\n\n```python\n{code}```",
        *notes,
        f"Images are `[B, 3, {size}, {size}]`, float32: the shorter side resized to {round(size / images['crop_pct'])} "
        f"(bicubic), the central {size} x {size} cut out, pixels in 0..1, less the mean `{list(images['mean'])}`, "
        f"divided by the standard deviation `{list(images['std'])}`.",
    ]
    if config:
        sections.append(f"## Training\n\n{_table(('setting', ''), training(config))}")
    # What was measured of other images before training can't stand beside the rest.
    others = any(f"{name}_untrained" in figures for name in SIZES)
    labels = {name: label for name, label in LABELS.items() if not others or "before" not in label}
    if figures.keys() & labels.keys():
        shown = {labels[name]: _figure(name, value) for name, value in figures.items() if name in labels}
        of = f"On {images_in_words(figures, tested)}."
        sections.append(f"## Measured by the run\n\n{of}\n\n{_table(('measure', ''), shown)}")
    if measured:
        sections.append(f"## Measured by hardviews evaluate\n\n{_table(('measure', ''), measured)}")
    sections.append(
        "## Licence\n\nNone is stated. Whoever shares this model chooses one, with the licence of the training data in "
        "mind, and adds `license:` to the head of this file."
    )
    return "\n\n".join(sections) + "\n"


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What matters most of a run's configuration."""
    views = config.get("views")
    drawn = "+".join(map(str, views)) if isinstance(views, list) else views
    policy = config.get("policy", "hardest")
    found = {
        "method": config["method"]["name"],
        # a name, or the last part of a path: where its author keeps the data is nobody's business
        "data": Path(str(config.get("data"))).name,
        "epochs": config.get("epochs"),
        "batch size": config.get("batch_size"),
        "views drawn per image": f"{drawn}, of which those kept are chosen by: {policy}" if drawn else None,
        "image size": config.get("image_size"),
        "started from": Path(config["init"]).name if config.get("init") else None,
        "optimizer": config.get("optimizer"),
        "seed": config.get("seed"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name.startswith("knn") else f"{value:.4g}"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
