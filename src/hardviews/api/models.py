"""``hardviews.load``, ``evaluate``, ``embed`` and ``export``: what a backbone is used for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardviews.api.arguments import argv_of, check_module, joined, names_or_object, with_call_errors, with_options_of
from hardviews.api.run import PretrainedRun
from hardviews.commands import embed as embedding
from hardviews.commands import evaluate as evaluation
from hardviews.commands import export as exporting
from hardviews.errors import InputError
from hardviews.options.embedding import EmbedOptions
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.export import ExportOptions

if TYPE_CHECKING:
    from torch import nn

    from hardviews.models.load import LoadedModel

OF_LOADING = ("checkpoint", "pretrained")


@with_call_errors
def load(
    target: str | Path | PretrainedRun,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    module: "nn.Module | None" = None,
) -> "LoadedModel":
    """Loads a run's backbone, or one by its name.

    Args:
        target: a run or its folder; or a backbone's name, such as ``resnet18``.
        checkpoint: for a named model: a file with its weights.
        pretrained: for a named model: False leaves its weights random.
        image_size: for a named model: input size; default: its training size.
        module: for a run that was given its backbone as an object: a module of the same architecture; a copy receives
            the weights.

    Returns:
        ``backbone``, an ``nn.Module``; ``transform``, what makes an image its input; ``preprocessing``, the same as
        numbers; ``embed(images)``.

    Raises:
        InputError: there is no such backbone, or its weights do not fit.

    Example:
        >>> import hardviews, numpy as np
        >>> model = hardviews.load("tests/fixtures/run-0.1")
        >>> model.transform(np.zeros((40, 50, 3), np.uint8)).shape
        torch.Size([3, 32, 32])
    """
    from hardviews.models.load import load_model

    weights = None if checkpoint is None else str(checkpoint)
    given = None if module is None else check_module("module", module)
    return load_model(_name(target), weights, pretrained, image_size, given)


@with_options_of(EvaluateOptions, skip=("data", "test_data", "protocol"))
@with_call_errors
def evaluate(
    model: "LoadedModel | PretrainedRun | str | Path",
    train: Any = None,
    test: Any = None,
    protocols: str | Sequence[str] = ("knn",),
    **options: Any,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Measures a backbone on labelled data, as ``hardviews evaluate`` does.

    Args:
        model: what ``load`` gives, a run, its folder, or a backbone's name.
        train: the command line's ``--data``, or a labelled ``Dataset`` or list of ``(image, label)``.
        test: its ``--test-data``, or such an object; by default the test split of a named set, else a held-out tenth.
        protocols: of ``hardviews.protocols.names()``.
        options: the options below; and a protocol's own by its name, such as ``knn={"k": 10}``.

    Returns:
        Figures by name, and what they are of; with ``on``, a list of these, one for each data set.

    Raises:
        InputError: there is nothing to measure, or nothing to measure it on.

    Example:
        >>> import hardviews
        >>> found = hardviews.evaluate("resnet18", train="shapes:40", pretrained=False, image_size=32, workers=0)
        >>> 0 <= found["knn_top1"] <= 1, found["test_images"]
        (True, 8)
    """
    from hardviews.models.evaluate import evaluate as measure
    from hardviews.models.evaluate import evaluate_model
    from hardviews.setup.data import Given

    name, source = names_or_object(options.pop("data", train))
    test_name, test_source = names_or_object(options.pop("test_data", test))
    asked = options.pop("protocol", protocols)
    given = {"protocol": joined("protocols", asked), "data": name, "test_data": test_name}
    argv = argv_of({key: value for key, value in given.items() if value is not None} | options)
    _, parsed, settings, _ = evaluation.parse(["model", *argv, "--json"])  # a caller gets what JSON holds
    if isinstance(model, str | Path | PretrainedRun) and source is None and test_source is None:
        results = measure(_name(model), parsed, settings)
    else:
        subject = _loaded(model, options, parsed)
        results = evaluate_model(subject, parsed, settings, given=Given(source, test_source))
    return results[0] if parsed.on is None else results


@with_options_of(EmbedOptions)
@with_call_errors
def embed(
    model: "LoadedModel | PretrainedRun | str | Path", data: Any, out: str | Path, **options: Any
) -> dict[str, Any]:
    """Writes the features of every image of a data set to a Parquet file, as ``hardviews embed`` does.
    For images one by one there is ``load(...).embed(images)``.

    Args:
        model: as ``evaluate`` takes it.
        data: as the command line takes it, or a ``Dataset`` or list of images.
        out: the file.
        options: the options below.

    Returns:
        What was written, by name: ``rows``, ``dimension``, ``unreadable``.

    Raises:
        InputError: there is nothing to embed with, nothing to embed, or nowhere to write to.
        RunError: the file could not be written to its end.

    Example:
        >>> import hardviews, tempfile
        >>> file = tempfile.mkdtemp() + "/features.parquet"
        >>> hardviews.embed("tests/fixtures/run-0.1", "shapes:40", file, workers=0)["rows"]
        40
    """
    from hardviews.models.embed import embed as write

    name, source = names_or_object(data)
    _, parsed, _ = embedding.parse(["model", *argv_of({"data": name, "out": out, **options})])
    return write(_target(model, options), parsed, source)


@with_options_of(ExportOptions)
@with_call_errors
def export(
    model: "LoadedModel | PretrainedRun | str | Path", out: str | Path, format: str, **options: Any
) -> dict[str, Any]:
    """Writes a backbone as timm, torchvision, safetensors or ONNX have it, as ``hardviews export`` does.

    Args:
        model: as ``evaluate`` takes it.
        out: a new or empty folder.
        format: timm, torchvision, safetensors or onnx.
        options: the options below.

    Returns:
        What was written, by name: ``files``, ``dimension``, ``difference``.

    Raises:
        InputError: there is nothing to export, it can't be had in this format, or nowhere to write to.
        RunError: the folder could not be written.

    Example:
        >>> import hardviews, tempfile
        >>> sorted(hardviews.export("tests/fixtures/run-0.1", tempfile.mkdtemp(), "safetensors")["files"])
        ['README.md', 'config.json', 'model.safetensors']
    """
    from hardviews.models.export import export as write

    _, parsed, _ = exporting.parse(["model", *argv_of({"out": out, "format": format, **options})])
    return write(_target(model, options), parsed)


def _name(model: Any) -> str:
    if not isinstance(model, str | Path | PretrainedRun):
        raise InputError(f"model: got {type(model).__name__}; give a run, its folder, a name, or what load returns")
    return str(model.folder) if isinstance(model, PretrainedRun) else str(model)


def _target(model: Any, options: Mapping[str, Any]) -> "str | LoadedModel":
    """A name, or a model that is loaded."""
    from hardviews.models.load import LoadedModel

    if not isinstance(model, LoadedModel):
        return _name(model)
    for name in OF_LOADING:
        if name in options:
            raise InputError(f"{name}: the model is loaded already; leave it out")
    return model


def _loaded(model: Any, options: Mapping[str, Any], parsed: EvaluateOptions) -> "LoadedModel":
    target = _target(model, options)
    if not isinstance(target, str):
        return target
    from hardviews.evaluation.rng import seeded
    from hardviews.models.load import load_model

    with seeded(0 if parsed.seed is None else parsed.seed):  # weights may be random
        return load_model(target, parsed.checkpoint, parsed.pretrained, parsed.image_size)
