"""What a run's verdict says, and what to try where it is not good."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from hardviews.analysis.verdict import Verdict, verdict
from hardviews.recipes.choice import LARGEST, TUNED, Facts
from hardviews.recipes.small import LONGEST

ENOUGH = 2_000  # steps, after which a small network is above raw pixels (benchmarks/RESULTS.md)
COARSE = 0.05  # a test that tells apart only what differs by more than that has too few images


def verdict_of(config: Mapping[str, Any], figures: Mapping[str, float]) -> Verdict | None:
    """The verdict on a run.

    Args:
        config: its ``config.yaml``.
        figures: as in ``summary.json``.
    """
    return verdict(figures, "the weights that it began with" if _had_weights(config) else "the untrained backbone")


def lines(config: Mapping[str, Any], figures: Mapping[str, float], found: Verdict | None) -> list[str]:
    """The verdict and, unless training has paid, what to try."""
    if found is None:
        return []
    tries = remedies(config, figures, found) if found.kind != "learned" else []
    return [f"verdict: {found.says}", *([f"try {'; or '.join(tries)}"] if tries else [])]


def remedies(config: Mapping[str, Any], figures: Mapping[str, float], found: Verdict) -> list[str]:
    """What may help, the likeliest first, with the run's own numbers."""
    epochs, steps = int(config["epochs"]), int(figures.get("steps", 0))
    per_epoch = max(steps // epochs, 1)
    images = per_epoch * int(config["batch_size"])
    recipe, had_weights = config.get("recipe"), _had_weights(config)
    tries = []
    form = config.get("pixels") or {}
    fitting = Facts(images, form.get("channels", 3), form.get("rgb", True), recipe == "ct").recipe
    # Small sets are seen by no more epochs than their recipes have.
    longest = max(LONGEST, epochs) if images <= LARGEST else 2 * epochs
    if images <= LARGEST and not had_weights and recipe != fitting:
        tries.append(f"--recipe {fitting}, made for sets of this size")
    if had_weights and recipe != TUNED:
        tries.append(f"--recipe {TUNED}: a low rate, lower still for early layers, and few epochs")
    elif had_weights:
        tries.append(f"a lower rate: --lr {config['lr'] / 3:.2g} in place of {config['lr']:.2g}")
    elif epochs >= longest:
        tries.append(f"more images: {epochs} epochs of {images:,} are many already")
    elif steps < ENOUGH:
        more = min(ceil(ENOUGH / per_epoch), longest)
        few = "1 step is" if steps == 1 else f"{steps:,} steps are"
        tries.append(f"--epochs {more}, since {few} few: small networks need about {ENOUGH:,}")
    else:
        more = min(2 * epochs, longest)
        tries.append(f"--epochs {more}{', twice as many' if more == 2 * epochs else ', in place of ' + str(epochs)}")
    if found.resolution > COARSE:
        count = int(figures["knn_test_images"])
        least = f"{100 * found.resolution:.1f} points"
        tries.append(f"more labelled images, by --test-data: {count:,} show only differences above {least}")
    return tries


def _had_weights(config: Mapping[str, Any]) -> bool:
    return bool(config.get("init") or (config.get("backbone") or {}).get("pretrained"))
