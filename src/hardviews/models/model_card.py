"""The README.md of an exported backbone: what it is, how it was trained, how it is loaded."""

from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any

import yaml

from hardviews.analysis.measured import SIZES, describe_images

LABELS = {
    "knn_top1": "kNN accuracy",
    "knn_top1_untrained": "kNN accuracy before training",
    "knn_top1_pixels": "kNN accuracy of raw pixels",
    "embedding_rank": "rank of the embedding",
}


def model_card(
    title: str, library: str, network: Mapping[str, Any], images: Mapping[str, Any], config: Mapping[str, Any],
    figures: Mapping[str, float], code: str, notes: Sequence[str], measured: Mapping[str, str], tested: str,
) -> str:  # fmt: skip
    """A model card as the Hugging Face Hub shows it.

    Args:
        title: what it is.
        library: that loads it, as the Hub names it.
        network: what it is, name to value.
        images: ``input_size``, ``mean``, ``std``, ``crop_pct``, ``crop_mode`` and ``interpolation``.
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
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        "A backbone without classifier: images to feature vectors."
        + (" Pretrained without labels by [hardviews](https://arxiv.org/abs/2310.03940)." if config else ""),
        _table(("network", ""), network),
        f"## Loading\n\nIn this folder:\n\n```python\n{code}```",
        *notes,
        f"## Images\n\n{_images(images)}",
    ]
    if config:
        sections.append(f"## Training\n\n{_table(('setting', ''), training(config))}")
    # What was measured of other images before training can't stand beside the rest.
    others = any(f"{name}_untrained" in figures for name in SIZES)
    labels = {name: label for name, label in LABELS.items() if not others or "before" not in label}
    if figures.keys() & labels.keys():
        shown = {labels[name]: _figure(name, value) for name, value in figures.items() if name in labels}
        of = f"On {describe_images(figures, tested)}."
        sections.append(f"## Measured by the run\n\n{of}\n\n{_table(('measure', ''), shown)}")
    if measured:
        sections.append(f"## Measured by hardviews evaluate\n\n{_table(('measure', ''), measured)}")
    sections.append(
        "## Licence\n\nNone is stated. Whoever shares this model chooses one, with the licence of the training data in "
        "mind, and adds `license:` to the head of this file."
    )
    return "\n\n".join(sections) + "\n"


def _images(images: Mapping[str, Any]) -> str:
    """How a picture becomes the network's input, in words and in code."""
    side = images["input_size"][-1]
    resized = floor(side / images["crop_pct"])  # timm rounds down
    squash = images["crop_mode"] == "squash"
    what = f"a picture is resized to {resized} x {resized}" if squash else f"the shorter side is resized to {resized}"
    size = (resized, resized) if squash else resized
    return (
        f"The network takes float32 `[B, 3, {side}, {side}]`: {what} ({images['interpolation']}, by Pillow on 8 bits), "
        f"the central {side} x {side} pixels are cut out and scaled to 0..1; the mean is subtracted, and the result "
        "divided by the standard deviation. Before, transparent pictures are laid on white and 16 bits "
        "scaled to 8, which `convert` does not do.\n\n"
        "```python\nfrom PIL import Image, ImageOps\nfrom torchvision import transforms\n\n"
        "prepare = transforms.Compose([\n"
        f"    transforms.Resize({size}, transforms.InterpolationMode.{images['interpolation'].upper()}),\n"
        f"    transforms.CenterCrop({side}),\n"
        "    transforms.ToTensor(),\n"
        f"    transforms.Normalize({list(images['mean'])}, {list(images['std'])}),\n"
        "])\n"
        'picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")\n'
        "images = prepare(picture)[None]\n```"
    )


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
        "extends the run": Path(config["extend"]).name if config.get("extend") else None,
        "optimizer": config.get("optimizer"),
        "seed": config.get("seed"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name.startswith("knn") else f"{value:.4g}"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
