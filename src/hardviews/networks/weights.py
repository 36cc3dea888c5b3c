"""Weights of others for a backbone: files as timm, torch, DINO and iBOT write them, read without pickle."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from hardviews.errors import InputError

# Where files keep their weights; of DINO and iBOT the teacher, which is what they evaluate.
KEYS = ("state_dict", "model_state_dict", "model", "teacher", "student")


# What checkpoints such as DINO's and iBOT's hold besides tensors and plain values: their arguments, and numbers of
# numpy, by the names of numpy 1 and 2.
_scalar = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    argparse.Namespace,
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]


class Match(NamedTuple):
    """What became of every tensor."""

    matched: list[str]  # loaded
    missing: list[str]  # of the backbone, which keeps what it had
    left: list[str]  # of the file, by their names there: of no use, or of another shape

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} of the backbone's {len(self.matched) + len(self.missing)} tensors"]
        parts += [f"missing: {_some(self.missing)}"] if self.missing else []
        parts += [f"left in the file: {_some(self.left)}"] if self.left else []
        return "; ".join(parts)


def read_weights(file: Path, option: str) -> dict[str, Tensor]:
    """A state dictionary from safetensors or from torch: bare, or under ``state_dict``, ``model``, ``teacher`` or
    ``student``.

    Besides tensors and plain values only ``ALLOWED`` is made.

    Args:
        file: ``.safetensors``, or anything that torch wrote.
        option: whose value the file is, for messages.

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
    # torch's reader of pickles stumbles in many ways over what is no pickle.
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, SafetensorError,
            pickle.UnpicklingError) as error:  # fmt: skip
        refused = re.search(r"Unsupported \w+: (?:GLOBAL|class|operand) ([\w.]+)|got <class '([\w.]+)'>", str(error))
        reason = " ".join(str(error).split()) or type(error).__name__
        if refused:
            reason = f"it holds {refused[1] or refused[2]}, which is not allowed"
        raise InputError(f"{option}: {file} can't be loaded: {reason[:160]}") from error
    if isinstance(loaded, dict) and {"format", "method"} <= loaded.keys():
        raise InputError(f"{option}: {file} is a checkpoint of hardviews; give its run folder")
    for key in KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise InputError(f"{option}: {file} holds no state dictionary")
    weights = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{option}: {file} holds no tensors at its top, nor under {', '.join(KEYS)}")
    return weights


def load_weights(backbone: nn.Module, weights: Mapping[str, Tensor], name: str) -> Match:
    """Loads what fits by name, once prefixes are gone, and by shape; a ViT's positions are resized.

    Args:
        backbone: a timm model without classifier.
        weights: by name, possibly under ``module.`` and ``backbone.``.
        name: of what they are, for the message.

    Raises:
        InputError: nothing fits.
    """
    own = backbone.state_dict()
    names = {_bare(key): key for key in weights}
    bare = bare_names(weights)
    if isinstance(backbone, VisionTransformer):
        bare = _for_vit(bare, backbone)
    found = {key: value for key, value in bare.items() if key in own and value.shape == own[key].shape}
    if not found:
        there, here = _some(list(weights)) or "no tensor", _some(list(own))
        raise InputError(f"{name}: nothing in it fits the backbone: {there} there, {here} here")
    backbone.load_state_dict(found, strict=False)
    missing, left = own.keys() - found.keys(), bare.keys() - found.keys()
    return Match(list(found), sorted(missing), sorted(names.get(key, key) for key in left))


def bare_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of wrappers and methods."""
    return {_bare(key): value for key, value in weights.items()}


def _for_vit(weights: dict[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    """Positions resized and other layouts converted by timm, which fails where tokens other than patches differ; then
    positions are left."""
    try:
        converted: dict[str, Tensor] = checkpoint_filter_fn(weights, vit)
    except (RuntimeError, ValueError, AttributeError, AssertionError):
        return weights  # in which positions are of another shape
    return converted


def _bare(key: str) -> str:
    for prefix in ("module.", "backbone."):
        key = key.removeprefix(prefix)
    return key


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
