"""What is to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardviews.options.comparison import CompareOptions
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.pretraining import PretrainOptions


@dataclass(frozen=True)
class Arm:
    """A name, the options of pretrain as given for it, and what they come to."""

    name: str
    argv: tuple[str, ...]
    options: PretrainOptions


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Args:
        options: of the comparison.
        common: the options of pretrain that all arms have, as given.
        arms: each once.
        baseline: an arm's name.
        seeds: ascending.
        measuring: options of ``hardviews evaluate``, as given: a run is measured again if they change.
        evaluation: the same, parsed.
        settings: of every protocol, parsed.
    """

    options: CompareOptions
    common: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    measuring: tuple[str, ...]
    evaluation: EvaluateOptions
    settings: Mapping[str, Mapping[str, Any]]


def evaluation_argv(options: CompareOptions, run: PretrainOptions, settings: Sequence[str]) -> list[str]:
    """The options of ``hardviews evaluate`` that every run is measured with.

    Args:
        options: of the comparison.
        run: of any arm.
        settings: options of protocols, as given.
    """
    test = options.labelled_test if options.labelled else run.test_data
    argv = ["--data", str(options.labelled or run.data), "--protocol", options.protocol, *settings, "--json"]
    argv += ["--test-data", test] if test else []
    for name in ("data_root", "image_column", "label_column", "tile", "frames", "workers", "accelerator"):
        argv += [f"--{name.replace('_', '-')}", str(getattr(run, name))]
    return argv
