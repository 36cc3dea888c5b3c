"""The README.md of an exported backbone: what it is, how it was trained, how it is loaded."""

import inspect
from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any

import yaml

from hardviews import methods
from hardviews.analysis.measured import SIZES, describe_images
from hardviews.errors import InputError
from hardviews.views.centre import by_bytes
from hardviews.views.pixels import RGB, Pixels

LABELS = {
    "knn_top1": "kNN accuracy",
    "knn_top1_untrained": "kNN accuracy before training",
    "knn_top1_pixels": "kNN accuracy of raw pixels",
    "embedding_rank": "rank of the embedding",
}


def model_card(
    title: str, library: str, network: Mapping[str, Any], images: Mapping[str, Any], config: Mapping[str, Any],
    figures: Mapping[str, float], code: str, notes: Sequence[str], measured: Mapping[str, str], tested: str,
    form: Pixels = RGB,
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
        form: what images are.
    """
    method = [config["method"]["name"].rpartition(".")[2]] if config else []
    head = {
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "tags": [
            "image-feature-extraction",
            *(["self-supervised"] if config else []),
            *(["hard-view-selection"] if config and selects(config) else []),
            *method,
        ],
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        "A backbone without classifier: images to feature vectors."
        + (" Pretrained without labels by [hardviews](https://arxiv.org/abs/2310.03940)." if config else ""),
        _table(("network", ""), network),
        f"## Loading\n\nIn this folder:\n\n```python\n{code}```",
        *notes,
        f"## Images\n\n{_images(images) if form == RGB else _stored_images(images, form)}",
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


def _stored_images(images: Mapping[str, Any], form: Pixels) -> str:
    """How an array of stored numbers becomes the network's input, in words and in code."""
    channels, side = images["input_size"][:2]
    resized = floor(side / images["crop_pct"])
    squash = images["crop_mode"] == "squash"
    what = f"the picture is resized to {resized} x {resized}" if squash else f"the shorter side is resized to {resized}"
    low, high = (list(values) for values in (form.low, form.high))
    filter_ = images["interpolation"]
    stretched, stretch = "", ""
    if form.percentiles:
        stretched = (
            f"it is stretched, so that its own percentiles {form.percentiles[0]:g} and {form.percentiles[1]:g}"
            f"{'' if form.rgb else ' of every channel'} become {low} and {high}; "
        )
        stretch = (
            f"ends = np.percentile(picture.astype(np.float32), {list(form.percentiles)}"
            f"{'' if form.rgb else ', axis=(0, 1)'})\n"
            "picture = ((picture - ends[0]) * ((high - low) / np.maximum(ends[1] - ends[0], 1e-12)) + low)\n"
            f"picture = picture.clip(low, high){'' if form.dtype == 'float32' else '.round()'}"
            f".astype(np.{form.dtype})\n"
        )
    if by_bytes(form):
        ranged, levels = "", "levels = picture\n"
        resize = f"{filter_}, by Pillow on 8 bits"
    else:
        ranged = f"values from {low} to {high} become levels 0 to 255, and what lies outside is cut; "
        levels = "levels = ((picture.astype(np.float32) - low) * scale).clip(0, 255)\n"
        resize = f"{filter_}, by Pillow, each channel as 32-bit floats, cut to 0..255"
    size = f"{resized}, {resized}"
    if not squash:
        size = f"(int({resized} * n / min(picture.shape[:2])) for n in picture.shape[:2])"
    return (
        f"The network takes float32 `[B, {channels}, {side}, {side}]`, made of a picture `[h, w, {channels}]` of "
        f"{form.dtype}{' (red, green, blue)' if form.rgb else ''}: {stretched}{ranged}{what} ({resize}), and the "
        f"central {side} x {side} pixels are cut out and divided by 255; the mean is subtracted, and the result "
        "divided by the standard deviation.\n\n"
        "```python\nimport numpy as np\nimport torch\nfrom PIL import Image\n\n"
        f"low, high = np.float32({low}), np.float32({high})\n"
        f"scale = np.float32(255 / (np.float64({high}) - np.float64({low})))\n"
        f"mean, std = np.float32({list(images['mean'])}), np.float32({list(images['std'])})\n\n"
        f'picture = np.load("picture.npy")  # {form.dtype} [h, w, {channels}]\n'
        f"{stretch}{levels}"
        f"height, width = {size}\n"
        f"left, top = round((width - {side}) / 2), round((height - {side}) / 2)\n"
        "planes = []\n"
        f"for c in range({channels}):\n"
        f"    plane = Image.fromarray(np.ascontiguousarray(levels[..., c]))\n"
        f"    plane = plane.resize((width, height), Image.Resampling.{filter_.upper()})\n"
        f"    planes.append(np.asarray(plane.crop((left, top, left + {side}, top + {side}))))\n"
        "pixels = np.stack(planes, -1).astype(np.float32).clip(0, 255) / 255\n"
        "images = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]\n```"
    )


def selects(config: Mapping[str, Any]) -> bool:
    """Whether a run chose among its views: it drew more than it kept, or its plan can't be made any more."""
    try:
        make = methods.find(config["method"]["name"]).default_plan
        own = inspect.signature(make).parameters
        plan = make(int(config["image_size"]), **{k: v for k, v in config["plan"].items() if k in own})
        views = config.get("views") or plan.draw
        return plan.with_draws(tuple(views) if isinstance(views, list) else views).selects
    except (InputError, KeyError, TypeError, ValueError):
        return True


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What matters most of a run's configuration."""
    views = config.get("views")
    drawn = "+".join(map(str, views)) if isinstance(views, list) else views
    kept = f"of which those kept are chosen by: {config.get('policy', 'hardest')}" if selects(config) else "all kept"
    found = {
        "method": config["method"]["name"],
        # a name, or the last part of a path: where its author keeps the data is nobody's business
        "data": Path(str(config.get("data"))).name,
        "epochs": config.get("epochs"),
        "batch size": config.get("batch_size"),
        "views drawn per image": f"{drawn}, {kept}" if drawn else None,
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
