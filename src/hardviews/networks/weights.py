"""Loads weights from other sources: files from timm, torch, Lightning, DINO, iBOT and MoCo, without pickle."""

import argparse
import pickle
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from hardviews.errors import InputError
from hardviews.networks.transformers_backbone import TransformersBackbone
from hardviews.wording import several

# Keys under which files store weights; for DINO and iBOT the teacher, which their authors evaluate.
KEYS = ("state_dict", "model_state_dict", "model", "teacher", "student")

# Prefixes that wrappers and methods add to a backbone's names, in any order: DDP and MoCo ``module``, DINO and lightly
# ``backbone``, Lightning ``model``, MoCo ``encoder_q``. torch.compile inserts ``_orig_mod`` anywhere in a name.
WRAPPERS = ("module", "backbone", "model", "encoder_q")
COMPILED = "_orig_mod."


# Types besides tensors and plain values in checkpoints such as DINO's and iBOT's: their arguments, and numpy numbers,
# by the names of numpy 1 and 2.
_scalar = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    argparse.Namespace,
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]


class Match(NamedTuple):
    """Which tensors were loaded and which were not."""

    matched: list[str]  # loaded
    missing: list[str]  # names in the backbone, whose tensors keep their values
    left: list[str]  # names in the file that fit nothing: unknown, or of another shape
    prefix: str = ""  # of the names in the file
    adapted: str = ""  # what became of an input layer for other channels, in words

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} of the backbone's {len(self.matched) + len(self.missing)} tensors"]
        parts[0] += f", under {self.prefix!r}" if self.prefix else ""
        parts += [self.adapted] if self.adapted else []
        parts += [f"{len(self.missing)} missing: {_some(self.missing)}"] if self.missing else []
        parts += [f"{len(self.left)} left in the file: {_some(self.left)}"] if self.left else []
        return "; ".join(parts)


def read_weights(file: Path, option: str) -> dict[str, Tensor]:
    """Reads a state dictionary written by safetensors or torch: bare, or under ``state_dict``, ``model``, ``teacher``
    or ``student``.

    Besides tensors and plain values, it only unpickles ``ALLOWED``.

    Args:
        file: ``.safetensors``, or any file that torch wrote.
        option: option that names the file, for messages.

    Raises:
        InputError: it is no such file.
    """
    if not file.is_file():
        raise InputError(f"{option}: {file} is not a file")
    try:
        if file.suffix == ".safetensors":
            loaded: Any = load_file(file)
        else:
            with torch.serialization.safe_globals(ALLOWED):
                loaded = torch.load(file, "cpu", weights_only=True)
    # torch's unpickler fails in many ways on files that are no pickles.
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, SafetensorError,
            pickle.UnpicklingError) as error:  # fmt: skip
        refused = re.search(r"Unsupported \w+: (?:GLOBAL|class|operand) ([\w.]+)|got <class '([\w.]+)'>", str(error))
        if refused:
            reason = f"it holds {refused[1] or refused[2]}, which is not allowed"
            raise InputError(f"{option}: {file} can't be loaded: {reason[:160]}") from error
        kind = "safetensors file" if file.suffix == ".safetensors" else "file of weights that torch has saved"
        reason = " ".join(str(error).split()) or "it ends too early"
        # Of a file of another kind, torch's unpickler gives the number of a byte.
        detail = "" if reason.isdigit() else f": {reason[:160]}"
        raise InputError(f"{option}: {file} is no intact {kind}{detail}") from error
    if isinstance(loaded, dict) and {"format", "method"} <= loaded.keys():
        raise InputError(f"{option}: {file} is a hardviews checkpoint; give its run folder")
    for key in KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise InputError(f"{option}: {file} holds no state dictionary")
    weights = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{option}: {file} holds no tensors at the top level or under {', '.join(KEYS)}")
    return weights


def load_weights(backbone: nn.Module, weights: Mapping[str, Tensor], name: str) -> Match:
    """Loads tensors whose name (without wrappers' prefix) and shape fit; a ViT's position embeddings are resized.

    If the file has several prefixes, the one under which most of the backbone's names are found is used. An input layer
    for RGB becomes one for the backbone's channels by timm's ``adapt_input_conv``: RGB's weights repeated and scaled,
    of one channel their sum.

    Args:
        backbone: without classifier.
        weights: by name, with any nesting of the prefixes in ``WRAPPERS``.
        name: of the source, for the message.

    Raises:
        InputError: nothing fits, or the input layer is for channels that are neither the backbone's nor RGB.
    """
    if isinstance(backbone, TransformersBackbone):  # its files use the model's own names
        backbone = backbone.model
    own = backbone.state_dict()
    named = {key.replace(COMPILED, ""): key for key in weights}
    prefix = _prefix(named, own)
    names = {key.removeprefix(prefix): given for key, given in named.items() if key.startswith(prefix)}
    bare = {key: weights[given] for key, given in names.items()}
    besides = [given for key, given in named.items() if not key.startswith(prefix)]
    if isinstance(backbone, VisionTransformer):
        bare = _for_vit(bare, backbone)
    bare, adapted = _for_channels(bare, backbone, name)
    found = {key: value for key, value in bare.items() if key in own and value.shape == own[key].shape}
    if not found:
        there, here = _some(list(weights)) or "no tensor", _some(list(own))
        raise InputError(f"{name}: nothing in it fits the backbone: {there} there, {here} here")
    backbone.load_state_dict(found, strict=False)
    missing, left = own.keys() - found.keys(), bare.keys() - found.keys()
    written = next((names[key].removesuffix(key) for key in found if names.get(key, "").endswith(key)), prefix)
    return Match(
        list(found), sorted(missing), sorted([*(names.get(key, key) for key in left), *besides]), written, adapted
    )


def bare_name(name: str) -> str:
    """A weight's name without prefixes of wrappers and methods."""
    return _split(name.replace(COMPILED, ""))[1]


def _prefix(names: Iterable[str], own: Container[str]) -> str:
    """The prefix under which most names are the backbone's; the longest if several tie."""
    names = list(names)
    candidates = {""}
    for prefix in {_split(name)[0] for name in names}:
        parts = prefix.split(".")[:-1]
        candidates |= {"".join(f"{part}." for part in parts[: end + 1]) for end in range(len(parts))}

    def fitting(prefix: str) -> tuple[int, int]:
        return sum(name.removeprefix(prefix) in own for name in names if name.startswith(prefix)), len(prefix)

    return max(candidates, key=fitting)


def _split(name: str) -> tuple[str, str]:
    """Splits a name into its wrappers' prefix and the rest."""
    bare = name
    while bare.partition(".")[0] in WRAPPERS:
        bare = bare.partition(".")[2]
    return name.removesuffix(bare), bare


def _for_vit(weights: dict[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    """Lets timm resize position embeddings and convert other layouts. If timm fails, because there are other extra
    tokens, the position embeddings stay unloaded."""
    try:
        converted: dict[str, Tensor] = checkpoint_filter_fn(weights, vit)
    except (RuntimeError, ValueError, AttributeError, AssertionError):
        return weights  # position embeddings keep their other shape
    return converted


def _for_channels(weights: dict[str, Tensor], backbone: nn.Module, name: str) -> tuple[dict[str, Tensor], str]:
    """With input layers for the backbone's channels, and what was done in words."""
    said: list[str] = []
    for layer in _input_layers(backbone):
        key = f"{layer}.weight"
        wanted = backbone.get_parameter(key).shape
        value = weights.get(key)
        if value is None or value.ndim != 4 or value.shape[1] == wanted[1]:
            continue
        if (value.shape[0], *value.shape[2:]) != (wanted[0], *wanted[2:]):  # another layer altogether
            continue
        given, channels = value.shape[1], int(wanted[1])
        if given != 3:
            raise InputError(
                f"{name}: its {key} takes {several(given, 'channel')}, and images have {channels}; only weights for "
                "RGB become weights for other channels"
            )
        weights = {**weights, key: adapt_input_conv(channels, value)}
        said.append(f"{key} made for {several(channels, 'channel')} of RGB's")
    return weights, ", ".join(said)


def _input_layers(backbone: nn.Module) -> list[str]:
    """The names of the convolutions that see the images: as timm says, else the first."""
    convolutions = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    named = getattr(backbone, "pretrained_cfg", {}).get("first_conv") or ()
    named = (named,) if isinstance(named, str) else named
    return [name for name in named if name in convolutions] or convolutions[:1]


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
