"""Names runs shortly, and finds which differ in their seed only: these are one arm, drawn as mean and band."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hardviews.analysis.run import Run

# Settings of where and how a run is carried out, which do not define it.
CARRIED_OUT = {
    "out", "data_root", "download", "workers", "in_memory", "max_unreadable", "checkpoint_steps", "log_steps",
    "tensorboard", "wandb", "max_batch_bytes", "keep_epochs", "telemetry", "gallery",
}  # fmt: skip
PLAIN = {"policy", "method.name", "backbone.name", "data", "init", "recipe"}  # values that speak for themselves
NAMED_BY = 3  # maximum settings that an arm is named by
LONGEST = 30  # letters of a name


def with_arms(runs: Sequence[Run]) -> list[Run]:
    """The runs with their arm's number and name, and short unique names of their own.

    An arm is named by the settings in which arms differ, if they are few, else by its first run's folder.

    Args:
        runs: named by their folders.
    """
    if len(runs) == 1:
        return [replace(runs[0], arm_name=runs[0].name)]
    keys = [tuple(sorted(_settings(run).items())) for run in runs]
    order = list(dict.fromkeys(keys))
    firsts = [runs[keys.index(key)] for key in order]
    names = _arm_names(firsts)
    counts = Counter(keys)
    found = []
    for run, key in zip(runs, keys, strict=True):
        arm = order.index(key)
        seed = f"seed {run.config.get('seed', 0)}"
        name = (f"{names[arm]}, {seed}" if len(order) > 1 else seed) if counts[key] > 1 else names[arm]
        found.append(replace(run, name=name, arm=arm, arm_name=names[arm]))
    clashing = {name for name, count in Counter(run.name for run in found).items() if count > 1}
    return [replace(one, name=run.name) if one.name in clashing else one for one, run in zip(found, runs, strict=True)]


def _settings(run: Run) -> dict[str, str]:
    """What makes a run what it is, but for its seed."""
    return {name: text for name, text in settings(run.config).items() if name not in CARRIED_OUT | {"seed"}}


def _arm_names(firsts: Sequence[Run]) -> list[str]:
    flat = [_settings(run) for run in firsts]
    every = dict.fromkeys(name for one in flat for name in one)
    differing = [name for name in every if len({one.get(name) for one in flat}) > 1]
    if len(firsts) > 1 and len(differing) <= NAMED_BY:
        words = [", ".join(_word(name, one.get(name, "not set")) for name in differing) for one in flat]
        names = [shortened(word) for word in words]
        if len(set(names)) == len(names):
            return names
    names = [shortened(run.name) for run in firsts]
    return names if len(set(names)) == len(names) else [run.name for run in firsts]


def _word(name: str, value: str) -> str:
    if name in PLAIN:
        return value
    return f"{value} epochs" if name == "epochs" else f"{name.replace('_', ' ')} {value}"


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name of at most ``longest`` letters: the middle of longer ones is left out."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-(longest - 1 - half) :]}"


def settings(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """All settings, with dotted names for nested ones."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = "–" if value is None else str(value)
    return found


def count(runs: Sequence[Run]) -> int:
    """How many arms there are."""
    return len({run.arm for run in runs})
