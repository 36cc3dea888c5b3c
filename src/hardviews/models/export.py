"""Writes a backbone as others load it, loads it as they do, and compares."""

import importlib.util
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hardviews import methods
from hardviews.analysis.measured import test_set
from hardviews.errors import InputError, RunError
from hardviews.evaluation import protocols
from hardviews.evaluation.features import evaluating
from hardviews.launch.global_state import global_state_restored
from hardviews.models.formats import FORMATS, Encoder, Exported, images_of
from hardviews.models.hub import check_hub, push
from hardviews.models.load import LoadedModel, load_model
from hardviews.models.model_card import model_card
from hardviews.models.vectors import on_device
from hardviews.networks.backbones import check_features
from hardviews.networks.exports import OPSET, check_timm, check_torchvision
from hardviews.options.export import ExportOptions
from hardviews.setup.data import tested_on
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import RGB
from hardviews.views.streams import stream

# Of the largest feature; rounding is a hundredth of it.
TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@global_state_restored()
def export(target: str | LoadedModel, options: ExportOptions) -> dict[str, Any]:
    """Writes a backbone as another library loads it, loads it so, and compares its features.

    Args:
        target: a run folder or a timm model's name, of which an existing folder wins; or a model, which stays as it is.
        options: as parsed.

    Returns:
        What was written, by name.

    Raises:
        InputError: there is nothing to export, it can't be had in this format, or nowhere to write to.
        RunError: the folder could not be written, or not be uploaded.
    """
    out = check(options)
    if options.push_to_hub is not None:
        check_hub(options.push_to_hub)
    subject = target
    if isinstance(subject, str):
        subject = load_model(subject, options.checkpoint, options.pretrained, options.image_size)
    with on_device(subject.backbone, "cpu"), evaluating(subject.backbone):
        written = write(at_size(subject, options), options, out)
    if options.push_to_hub is not None:
        written["hub"] = push(out, options.push_to_hub, options.private)
    return written


def write(subject: LoadedModel, options: ExportOptions, out: Path) -> dict[str, Any]:
    if options.format == "timm":
        check_timm(subject.built)
    if options.format == "torchvision":
        check_torchvision(subject.built, subject.preprocessing.image_size)
    images, features = example(subject)
    with staged(out) as folder:
        exported = FORMATS[options.format](subject, images_of(subject), features.shape[1], folder)
        distance = difference(exported.encoder, subject.backbone, images)
        if not distance <= TOLERANCE:
            raise InputError(
                f"format: as {options.format} this backbone gives other features (they differ by {distance:.2g} of the "
                f"largest), perhaps for its arguments {subject.built.arguments}; give another format"
            )
        said = exported.config | ({} if subject.form == RGB else {"pixels": subject.form.saved()})
        (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        if options.push_to_hub is not None:
            exported = exported._replace(code=exported.code.replace("USER/NAME", options.push_to_hub))
        (folder / "README.md").write_text(card(subject, exported, features.shape[1]), encoding="utf-8")
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return {
        "target": subject.name,
        "architecture": subject.built.architecture,
        "format": options.format,
        "dimension": features.shape[1],
        "difference": distance,
        "files": files,
        "note": exported.note,
        "out": options.out,
    }


def check(options: ExportOptions) -> Path:
    """Where to write.

    Raises:
        InputError: something is there, or an option is beyond use.
    """
    if options.crop is not None and not 0 < options.crop <= 1:
        raise InputError(f"crop: {options.crop} must be above 0 and at most 1")
    if options.image_size is not None and options.image_size < 1:
        raise InputError(f"image-size: {options.image_size} must be at least 1")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if options.format == "onnx" and missing:
        raise InputError(f"format: onnx needs {', '.join(missing)}; pip install 'hardviews[export]'")
    out = Path(options.out).absolute()
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {options.out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"out: {options.out} is not empty; give a new or empty folder")
    return out


def at_size(subject: LoadedModel, options: ExportOptions) -> LoadedModel:
    """With the size and crop of images that the user asks for.

    Raises:
        InputError: the backbone does not take images of this size.
    """
    ready = subject.preprocessing
    size = options.image_size or ready.image_size
    check_features(subject.name, subject.backbone, size, ready.form.channels)
    return replace(subject, preprocessing=replace(ready, image_size=size, crop=options.crop or ready.crop))


def example(subject: LoadedModel) -> tuple[Tensor, Tensor]:
    """Three images of noise, and their features.

    Raises:
        InputError: these are not numbers.
    """
    size = subject.preprocessing.image_size
    images = torch.randn(3, subject.form.channels, size, size, generator=stream(0, "export"))
    with torch.no_grad():
        features: Tensor = subject.backbone(images)
    if not features.isfinite().all():
        raise InputError(f"{subject.name}: its features are not finite, so there is nothing worth exporting")
    return images, features


def difference(encoder: Encoder, backbone: nn.Module, images: Tensor) -> float:
    """The largest between two encoders' features, as a part of the largest feature; of a batch, and of one image."""
    largest = 0.0
    for batch in (images, images[:1]):
        with torch.no_grad():
            wanted, found = backbone(batch), encoder(batch)
        scale = wanted.abs().max().clamp_min(1e-6)
        # not max(), which passes over what is not a number
        largest = torch.stack([torch.tensor(largest), (found - wanted).abs().max() / scale]).max().item()
    return largest


@contextmanager
def staged(out: Path) -> Generator[Path, None, None]:
    """A folder beside ``out`` that takes its place once it is whole."""
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.replace(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunError(f"out: {out} can't be written: {reason}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def card(subject: LoadedModel, exported: Exported, dimension: int) -> str:
    """The model card."""
    built = subject.built
    run = RunFolder(Path(subject.name)) if subject.config else None
    name = str(subject.config["method"]["name"]).rpartition(".")[2] if subject.config else Path(subject.name).name
    teacher = run and methods.find(subject.config["method"]["name"]).evaluated.startswith("teacher")
    network = {
        "architecture": built.architecture + (" with the stem of CIFAR" if built.cifar_stem else ""),
        "features": dimension,
        "parameters": f"{sum(parameter.numel() for parameter in built.backbone.parameters()):,}",
        **({"weights": "the momentum teacher's"} if teacher else {}),
        **({"opset": OPSET} if exported.library == "onnx" else {}),
    }
    notes = [exported.note] if exported.note else []
    figures: dict[str, float] = {}
    if run and run.summary_file.exists():
        figures = json.loads(run.summary_file.read_text(encoding="utf-8"))
    elif run:
        found = run.evaluations()
        newest = max((values[-1][0] for values in found.values()), default=0)
        figures = {n: v[-1][1] for n, v in found.items() if v[-1][0] == newest or n.endswith(("_pixels", "_chance"))}
        notes.append("Training had not come to its end when this was exported.")
    tested = tested_on(*(subject.config.get(name) for name in ("data", "test_data", "knn_test"))) if run else ""
    return model_card(
        f"{built.architecture} by {name}" if run else name,
        exported.library, network, images_of(subject), subject.config, figures, exported.code, notes,
        measured(run, subject.step) if run else {}, tested, subject.form,
    )  # fmt: skip


def measured(run: RunFolder, step: int) -> dict[str, str]:
    """What ``hardviews evaluate`` found of the weights as they are, the latest of every figure on every test set."""
    found: dict[str, str] = {}
    for result in run.results():
        if result.get("step") == step:
            found |= {
                f"{name} on {test_set(result, name)}": protocols.as_text(name, value)
                for name, value in result.items()
                if isinstance(value, float) and name != "crop" and not name.endswith(protocols.CHOSEN)
            }
    return found
