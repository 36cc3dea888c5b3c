"""Options that had other names up to version 0.1.0: those names still work, in this version, everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

RENAMED = {
    "accumulate": "grad_accumulation",
    "clip_by": "clip_mode",
    "decay_1d": "decay_bias_and_norm",
    "max_skipped": "max_nonfinite_steps",
}


def with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings such as those of a ``config.yaml``, each under the name that it has now, in their order."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def rename_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with the names that options have now, and a line for every old name in it."""
    renamed, lines = [], []
    for argument in argv:
        option, equals, value = argument.partition("=")
        new = RENAMED.get(option.removeprefix("--").replace("-", "_")) if option.startswith("--") else None
        if new is not None:
            spelt = f"--{new.replace('_', '-')}"
            lines.append(f"{option} is now {spelt}; the old name will go in the next version")
            option = spelt
        renamed.append(option + equals + value)
    return renamed, lines
