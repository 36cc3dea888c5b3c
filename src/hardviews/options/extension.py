"""The settings of a run that extends another (``--extend``): what is not given is as in that run."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from hardviews.errors import InputError
from hardviews.options.old_names import with_new_names

# A run's config.yaml holds a value for every setting. Those that followed from another setting are left open again
# where that one is given.
FOLLOWING = {
    "scoring": ("score_resolution", "score_network", "score_token_keep"),
    "train_resolution": ("score_resolution",),
    "image_size": ("score_resolution", "decode_size", "crop"),
    "weight_decay": ("weight_decay_end",),
    "plan.locals": ("views",),
    "data": ("epoch_images",),
    "channels": ("pixels", "mean", "std"),
    "value_range": ("pixels", "mean", "std"),
}


def settings_to_extend(run: str, out: str | None, given: Collection[str]) -> dict[str, Any]:
    """What a run's ``config.yaml`` holds, as the settings under those that are given.

    A run that has begun to extend another resumes with its own, so that the other need not be there any more.

    Args:
        run: the folder of the run that is extended.
        out: the folder of the run that extends it, if it is given.
        given: names of settings that are given, such as ``"lr"``.

    Raises:
        InputError: ``run`` is no run folder, or ``out`` is the same.
    """
    own = Path(out) / "config.yaml" if out else None
    if own and own.is_file():
        settings = _read(own)
        if Path(settings.get("extend") or "") == Path(run):
            return settings
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise InputError(f"extend: {run} is no run folder: it has no config.yaml")
    if own and own.parent.resolve() == file.parent.resolve():
        raise InputError(f"out: {out} is the run that is to be extended, and stays as it is; give another folder")
    settings = _read(file)
    # What versions did that had no such options; no pixels stand for RGB.
    settings = {"knn_bank": 0, "knn_test": "tenth", "pixels": {}} | settings
    # A new cycle has a warm-up of its own, and a schedule of its own.
    dropped = {"warmup_epochs", "extend", "extend_schedule"}
    dropped |= {name for source in given for name in FOLLOWING.get(source, ())}
    return {name: value for name, value in settings.items() if name not in dropped} | {"extend": run}


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"extend: {file} is damaged: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("method"), dict):
        raise InputError(f"extend: {file} is damaged: it holds no settings of a run")
    return with_new_names(loaded)
