"""The formats a backbone is exported in: what each writes, and how it is loaded again."""

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.models.load import LoadedModel
from hardviews.networks.backbone_sources import remove_head
from hardviews.networks.backbones import Built
from hardviews.networks.exports import OPSET, apart, for_torchvision, timm_config, weights_of, write_onnx
from hardviews.networks.other_exports import export_other

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"

Encoder = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """What a format has made of a backbone in a folder."""

    library: str  # that loads it, as the Hub names it
    config: dict[str, Any]  # for config.json
    code: str  # that loads it
    encoder: Encoder  # it, loaded
    note: str = ""  # what one must know besides


def images_of(subject: LoadedModel) -> dict[str, Any]:
    """How images are made ready, in timm's words."""
    ready = subject.preprocessing
    return {
        "input_size": [ready.form.channels, ready.image_size, ready.image_size],
        "interpolation": ready.interpolation,
        "crop_pct": ready.crop,
        "crop_mode": ready.crop_mode,
        "mean": list(ready.mean),
        "std": list(ready.std),
    }


def to_timm(subject: LoadedModel, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
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


def to_safetensors(subject: LoadedModel, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """The state dictionary, and timm's ``config.json``; of other backbones their own library's."""
    built = subject.built
    if built.library == "torchvision":
        return to_torchvision(subject, images, dimension, folder)
    if built.library != "timm":
        other = export_other(built, images, dimension, WEIGHTS)
        write_weights(apart(other.weights), folder)
        (folder / "config.json").write_text(json.dumps(other.config), encoding="utf-8")  # which loading may read
        return Exported(other.library, other.config, other.code, other.load(folder).eval())
    write_weights(weights_of(built.backbone), folder)
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


def to_torchvision(subject: LoadedModel, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """For ``torchvision.models``, by its names of weights, of what ``check_torchvision`` lets pass."""
    built = subject.built
    there = for_torchvision(built, subject.preprocessing.image_size)
    write_weights(apart(there.weights), folder)
    model = getattr(torchvision.models, there.name)(**there.arguments)
    if there.classifier:
        setattr(model, there.classifier, nn.Identity())
    classifier = re.sub(r"[.]([0-9]+)", r"[\1]", there.classifier or remove_head(model))
    stem = give_stem(model, built)
    model.load_state_dict(load_file(folder / WEIGHTS))
    arguments = ", ".join(f"{name}={value!r}" for name, value in there.arguments.items())
    code = (
        "import torchvision\nfrom safetensors.torch import load_file\nfrom torch import nn\n\n"
        f"model = torchvision.models.{there.name}({arguments})\n"
        f"model.{classifier} = nn.Identity()\n"
        f'{stem}model.load_state_dict(load_file("{WEIGHTS}"))\nmodel.eval()\n'
    )
    config = {
        "architecture": f"torchvision.models.{there.name}",
        "model_args": there.arguments,
        "classifier": classifier,
        "num_features": dimension,
        **images,
    }
    if stem:
        config["stem"] = "cifar: conv1 is 3x3 of stride 1, maxpool is the identity; see README.md"
    return Exported("pytorch", config, code, model.eval())


def write_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Writes ``WEIGHTS`` with the permissions of any new file; safetensors gives its own that only the owner reads."""
    file = folder / WEIGHTS
    file.touch()
    mode = file.stat().st_mode
    save_file(weights, file, {"format": "pt"})
    file.chmod(mode)


def to_onnx(subject: LoadedModel, images: Mapping[str, Any], dimension: int, folder: Path) -> Exported:
    """A graph for any runtime, checked by ONNX's own checker and run by ONNX Runtime."""
    # Only here, as they are an extra.
    import onnx
    import onnxruntime

    channels = subject.form.channels
    write_onnx(subject.backbone, subject.preprocessing.image_size, folder / GRAPH, channels)
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
        f"def model(images):  # float32 [B, {channels}, S, S] of numpy\n"
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


FORMATS: dict[str, Callable[[LoadedModel, Mapping[str, Any], int, Path], Exported]] = {
    "timm": to_timm,
    "torchvision": to_torchvision,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
}


def give_stem(model: nn.Module, built: Built) -> str:
    """Gives a plain ResNet the stem that ``built`` has; the lines of code that do it, where that is the CIFAR stem."""
    if not built.cifar_stem:
        return ""
    width, channels = built.backbone.state_dict()["conv1.weight"].shape[:2]
    model.add_module("conv1", nn.Conv2d(channels, width, 3, padding=1, bias=False))
    model.add_module("maxpool", nn.Identity())
    return f"model.conv1 = nn.Conv2d({channels}, {width}, 3, padding=1, bias=False)\nmodel.maxpool = nn.Identity()\n"
