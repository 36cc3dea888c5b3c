"""Folders of models as timm reads them, local or on the hub: the architecture, its arguments, and what images are."""

import json
from pathlib import Path
from typing import Any

import timm

from hardviews.errors import InputError


def is_local(name: str) -> bool:
    """Whether timm reads a name as a folder, local or on the hub."""
    return name.startswith(("local-dir:", "hf-hub:", "hf_hub:"))


def read_config(name: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Reads a folder's config.json: where its weights are, the architecture, and the arguments except the number of
    classes.

    Raises:
        InputError: it can't be read.
    """
    source, _, place = name.partition(":")
    read = "load_model_config_from_path" if source == "local-dir" else "load_model_config_from_hf"
    try:
        config, architecture, arguments = getattr(timm.models._hub, read)(place)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:  # the last: other JSON
        line = " ".join(str(error).split())[:200]
        raise InputError(f"backbone {name!r}: its config.json can't be read: {line or type(error).__name__}") from error
    return config, architecture, {key: value for key, value in (arguments or {}).items() if key != "num_classes"}


def whole_config(name: str) -> dict[str, Any]:
    """A folder's config.json, local or on the hub, which ``read_config`` has read without error."""
    source, _, place = name.partition(":")
    file = (
        Path(place) / "config.json"
        if source == "local-dir"
        else timm.models._hub.download_from_hf(place, "config.json")
    )
    found: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return found
