"""Writes a backbone as others load it, loads it as they do, and compares."""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hardviews import methods
from hardviews.commands.export import ExportOptions
from hardviews.commands.model_card import model_card
from hardviews.commands.subjects import Subject, find_subject
from hardviews.errors import InputError, RunError
from hardviews.networks.backbones import Built, check_features
from hardviews.networks.exports import OPSET, for_torchvision, timm_config, weights_of, write_onnx
from hardviews.training.run_folder import RunFolder
from hardviews.views.streams import stream

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
# Runs on sets of small pictures, of at most so many pixels, look at the whole of them.
SMALL = 96
# Of the largest feature; rounding is a hundredth of it.
TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Encoder = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """What a format has made of a backbone in a folder."""

    library: str  # that loads it, as the Hub names it
    config: dict[str, Any]  # for config.json
    code: str  # that loads it
    encoder: Encoder  # it, loaded
    note: str = ""  # what one must know besides


def export(target: str, options: ExportOptions, as_json: bool) -> dict[str, Any]:
    """Exports and prints.

    Args:
        target: a run folder or a timm model's name; an existing folder wins.
        options: as parsed.
        as_json: print JSON on standard output, and everything else on standard error.

    Returns:
        What was written, by name.

    Raises:
        InputError: there is nothing to export, it can't be had in this format, or nowhere to write to.
        RunError: the folder could not be written.
    """
    out = check(options)
    subject = find_subject(target, options.checkpoint, options.pretrained, options.image_size)
    subject = at_size(subject, options)
    images, features = example(subject)
    with staged(out) as folder:
        exported = FORMATS[options.format](subject, images_of(subject), features.shape[1], folder)
        distance = difference(exported.encoder, subject.backbone, images)
        if not distance <= TOLERANCE:
            raise InputError(
                f"format: as {options.format} this backbone gives other features (they differ by {distance:.2g} of the "
                f"largest), perhaps for its arguments {subject.built.arguments}; give another format"
            )
        (folder / "config.json").write_text(json.dumps(exported.config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(subject, exported, features.shape[1]), encoding="utf-8")
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    written = {
        "target": subject.name,
        "architecture": subject.built.architecture,
        "format": options.format,
        "dimension": features.shape[1],
        "difference": distance,
        "files": files,
        "note": exported.note,
        "out": options.out,
    }
    show(written, Console(stderr=as_json), as_json)
    return written


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


def at_size(subject: Subject, options: ExportOptions) -> Subject:
    """With the size and crop of images that the user asks for.

    Raises:
        InputError: the backbone does not take images of this size.
    """
    ready = subject.preprocessing
    size = options.image_size or ready.image_size
    check_features(subject.name, subject.backbone, size)
    usual = 1.0 if subject.config and size <= SMALL else ready.crop
    return replace(subject, preprocessing=replace(ready, image_size=size, crop=options.crop or usual))


def example(subject: Subject) -> tuple[Tensor, Tensor]:
    """Three images of noise, and their features.

    Raises:
        InputError: these are not numbers.
    """
    size = subject.preprocessing.image_size
    images = torch.randn(3, 3, size, size, generator=stream(0, "export"))
    with torch.no_grad():
        features: Tensor = subject.backbone.eval()(images)
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


def images_of(subject: Subject) -> dict[str, Any]:
    """How images are made ready, in timm's words."""
    ready = subject.preprocessing
    return {
        "input_size": [3, ready.image_size, ready.image_size],
        "interpolation": "bicubic",
        "crop_pct": ready.crop,
        "mean": list(ready.mean),
        "std": list(ready.std),
    }


def to_timm(subject: Subject, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """For ``timm.create_model("local-dir:...", pretrained=True)``; of a CIFAR stem, as ``to_safetensors``."""
    plain = to_safetensors(subject, images, dimension, folder)
    if subject.built.cifar_stem:
        note = (
            "This ResNet has the stem of CIFAR, which no argument of timm.create_model gives: local-dir: and hf-hub: "
            "alone can't load it, the lines in README.md can."
        )
        return plain._replace(library="timm", note=note)
    code = (
        "import timm\n\n"
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # timm 1.0.16 or newer; '
        'on the Hub: "hf-hub:USER/NAME"\n'
    )
    # What local-dir: comes to, also by the oldest timm.
    local = {**plain.config["pretrained_cfg"], "file": str(folder / WEIGHTS)}
    built = subject.built
    model = timm.create_model(built.architecture, pretrained=True, pretrained_cfg=local, **built.arguments)
    return plain._replace(library="timm", code=code, encoder=model.eval())


def to_safetensors(subject: Subject, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """The state dictionary, and timm's ``config.json``."""
    built = subject.built
    save_file(weights_of(built.backbone), folder / WEIGHTS, {"format": "pt"})
    config = timm_config(built, images, dimension)
    model = timm.create_model(built.architecture, num_classes=0, **built.arguments)
    stem = give_stem(model, built)
    if stem:
        config["stem"] = "cifar: conv1 is 3x3 of stride 1, maxpool is the identity; see README.md"
    model.load_state_dict(load_file(folder / WEIGHTS))
    arguments = "".join(f", {name}={value!r}" for name, value in built.arguments.items())
    code = (
        f"import timm\nfrom safetensors.torch import load_file\n{'from torch import nn' if stem else ''}\n\n"
        f'model = timm.create_model("{built.architecture}", num_classes=0{arguments})\n'
        f'{stem}model.load_state_dict(load_file("{WEIGHTS}"))\nmodel.eval()\n'
    )
    return Exported("pytorch", config, code, model.eval())


def to_torchvision(subject: Subject, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """For ``torchvision.models``, by its names of weights."""
    built = subject.built
    there = for_torchvision(built, subject.preprocessing.image_size)
    save_file(there.weights, folder / WEIGHTS, {"format": "pt"})
    model = getattr(torchvision.models, there.name)(**there.arguments)
    setattr(model, there.classifier, nn.Identity())
    stem = give_stem(model, built)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"format: torchvision's {there.name} is of another structure: {reason[:160]}") from error
    arguments = ", ".join(f"{name}={value!r}" for name, value in there.arguments.items())
    code = (
        "import torchvision\nfrom safetensors.torch import load_file\nfrom torch import nn\n\n"
        f"model = torchvision.models.{there.name}({arguments})\nmodel.{there.classifier} = nn.Identity()\n"
        f'{stem}model.load_state_dict(load_file("{WEIGHTS}"))\nmodel.eval()\n'
    )
    config = {
        "architecture": f"torchvision.models.{there.name}",
        "model_args": there.arguments,
        "classifier": there.classifier,
        "num_features": dimension,
        **images,
    }
    if stem:
        config["stem"] = "cifar: conv1 is 3x3 of stride 1, maxpool is the identity; see README.md"
    return Exported("pytorch", config, code, model.eval())


def to_onnx(subject: Subject, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """A graph for any runtime, checked by ONNX's own checker and run by ONNX Runtime."""
    # Only here, as they are an extra.
    import onnx
    import onnxruntime

    write_onnx(subject.backbone, subject.preprocessing.image_size, folder / GRAPH)
    with sound():
        onnx.checker.check_model(str(folder / GRAPH))
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(str(folder / GRAPH), quiet, providers=["CPUExecutionProvider"])

    def encoder(batch: Tensor) -> Tensor:
        with sound():
            (found,) = session.run(["features"], {"images": batch.numpy()})
        return torch.from_numpy(found)

    code = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{GRAPH}")\n\n\n'
        "def model(images):  # float32 [B, 3, S, S] of numpy\n"
        '    return session.run(["features"], {"images": images})[0]\n'
    )
    config = {
        "architecture": subject.built.architecture,
        "opset": OPSET,
        "input": "images",
        "output": "features",
        "num_features": dimension,
        **images,
    }
    return Exported("onnx", config, code, encoder)


@contextmanager
def sound() -> Generator[None, None, None]:
    """Says in one line what ONNX has against a graph."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's have no common base but Exception
        line = " ".join(str(error).split())[:200]
        raise InputError(f"format: what torch writes of this backbone is no sound ONNX: {line}") from error


FORMATS: dict[str, Callable[[Subject, Mapping[str, Any], int, Path], Exported]] = {
    "timm": to_timm,
    "torchvision": to_torchvision,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
}


def give_stem(model: nn.Module, built: Built) -> str:
    """Gives a plain ResNet the stem that ``built`` has; the lines of code that do it, where that is the CIFAR stem."""
    if not built.cifar_stem:
        return ""
    channels = built.backbone.state_dict()["conv1.weight"].shape[0]
    model.add_module("conv1", nn.Conv2d(3, channels, 3, padding=1, bias=False))
    model.add_module("maxpool", nn.Identity())
    return f"model.conv1 = nn.Conv2d(3, {channels}, 3, padding=1, bias=False)\nmodel.maxpool = nn.Identity()\n"


def card(subject: Subject, exported: Exported, dimension: int) -> str:
    """The model card."""
    built = subject.built
    run = RunFolder(Path(subject.name)) if subject.config else None
    name = str(subject.config["method"]["name"]).rpartition(".")[2] if subject.config else Path(subject.name).name
    teacher = run and methods.find(subject.config["method"]["name"]).evaluated.startswith("teacher")
    facts = {
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
        figures = {name: values[-1][1] for name, values in run.evaluations().items()}
        notes.append("Training had not come to its end when this was exported.")
    return model_card(
        f"{built.architecture} by {name}" if run else name,
        exported.library, facts, images_of(subject), subject.config, figures, exported.code, notes,
    )  # fmt: skip


def show(written: Mapping[str, Any], console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps(written, indent=2))
        return
    files = f"{', '.join(written['files'])} ({sum(written['files'].values()) / 1e6:.1f} MB)"
    lines = [
        f"{written['target']}: {written['architecture']}, {written['dimension']} features, as {written['format']} in "
        f"{written['out']}: {files}",
        f"  loaded again, its features differ by at most {written['difference']:.1g} of the largest",
        *([f"  {written['note']}"] if written["note"] else []),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
