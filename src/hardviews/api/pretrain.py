"""``hardviews.pretrain``: the verb's run, called from Python."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardviews import methods
from hardviews.api.arguments import argv_of, check_module, names_or_object, with_call_errors, with_options_of
from hardviews.api.run import PretrainedRun
from hardviews.commands.pretrain import how_to_resume, parse
from hardviews.errors import InputError, RunError, StoppedError
from hardviews.launch.environment import is_started
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.recipes.choice import facts_of

if TYPE_CHECKING:
    from torch import nn

    from hardviews.methods.base import Method


@with_options_of(PretrainOptions)
@with_call_errors
def pretrain(
    data: Any = None,
    *,
    method: "str | type[Method[Any]] | Mapping[str, Any] | None" = None,
    backbone: "str | nn.Module | BackboneOptions | Mapping[str, Any] | None" = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> PretrainedRun:
    """Pretrains a backbone, or resumes with the run in ``out``, as ``hardviews pretrain`` does.

    Args:
        data: as the command line takes it; or a map-style ``Dataset``, a list of images, or what ``as_source`` makes;
            also for ``test_data``. None runs the built-in demonstration.
        method: a name, a class, or settings such as ``{"name": "simclr", "dim": 64}``.
        backbone: a name, a module, of which a copy is trained, or settings such as
            ``{"name": "resnet18", "channels": [16, 32, 64, 128]}``.
        epochs: passes over the data.
        out: the run folder; that of an unfinished run resumes.
        quiet: show no progress. Warnings go to standard error either way, and several processes show theirs.
        options: the options below, by the names that a configuration file has; besides ``config``, a file of them, and
            ``recipe``. Without a method, a backbone and a plan, small data takes a recipe, as on the command line.

    Returns:
        The run, of which ``summary`` and ``metrics`` are read.

    Raises:
        InputError: an argument is unknown or does not fit; nothing was written.
        RunError: the run could not continue.
        KeyboardInterrupt: it was interrupted and has saved; the same call with its ``out`` resumes.

    Example:
        >>> import hardviews, tempfile
        >>> run = hardviews.pretrain(
        ...     data="shapes:64", method="simclr", backbone={"name": "resnet18", "channels": [8, 8, 16, 16]},
        ...     epochs=1, batch_size=32, workers=0, out=tempfile.mkdtemp(), quiet=True,
        ... )
        >>> run.summary["steps"], 0 <= run.summary["knn_top1"] <= 1
        (2, True)
    """
    from rich.console import Console

    from hardviews.runs import pretrain as runs
    from hardviews.setup.data import Given

    given: dict[str, Any] = {"method": _method(method), "epochs": epochs, "out": out}
    name, source = names_or_object(data)
    test_name, test_source = names_or_object(options.pop("test_data", None))
    network, module = _backbone(backbone)
    options, transform = _transform(options)
    given |= {"data": name, "test_data": test_name, "backbone": network}
    argv = argv_of({key: value for key, value in given.items() if value is not None} | options)
    look = None if source is None else partial(facts_of, source=source)
    settings, _ = parse(argv, choose=module is None and transform is None, look=look)
    given_objects = {"data": source, "test_data": test_source, "backbone": module, "plan.transform": transform}
    objects = [key for key, value in given_objects.items() if value is not None]
    if objects and settings.batch_size == "auto":
        raise InputError(f"batch_size: auto needs {objects[0]} by name; give a number")
    if settings.devices * settings.nodes > 1 and not is_started():
        if objects:
            raise InputError(f"devices: several processes need {objects[0]} by name, as each opens its own")
        if settings.method["name"].startswith("__main__."):
            raise InputError("devices: several processes can't import a method of a script; put it in a module")
        return _in_processes(settings, argv)
    if module is not None:
        settings = replace(settings, backbone=replace(settings.backbone, module=module))
    if transform is not None:
        settings = replace(settings, plan={**settings.plan, "transform": transform})
    console = Console(quiet=quiet)
    summary = runs.pretrain(settings, console, Given(source, test_source))
    return PretrainedRun(Path(summary["run"]))


def _method(method: Any) -> Any:
    """Settings of the command line, with a name in place of a class."""
    if isinstance(method, Mapping):
        return {**method, "name": _method(method.get("name"))} if "name" in method else method
    if not isinstance(method, type):
        return method
    known = method.__module__ == f"{methods.__name__}.{method.__name__.lower()}"
    return method.__name__.lower() if known else f"{method.__module__}.{method.__qualname__}"


def _transform(options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The options without ``plan.transform``, and that, if it is a function or a list with one."""
    plan = dict(options.get("plan") or {})
    found = options.get("plan.transform", plan.pop("transform", None))
    if found is None or isinstance(found, str):
        return options, None
    if isinstance(found, Sequence) and all(one is None or isinstance(one, str) for one in found):
        return options, None
    rest = {name: value for name, value in options.items() if name not in ("plan", "plan.transform")}
    return rest | ({"plan": plan} if plan else {}), found


def _backbone(backbone: Any) -> tuple[Any, Any]:
    """Settings of the command line, and a module if one was given.

    Raises:
        InputError: a class was given, which has no weights.
    """
    if isinstance(backbone, BackboneOptions):
        settings = {field.name: getattr(backbone, field.name) for field in fields(backbone)}
        module = settings.pop("module")
        if module is not None:
            del settings["name"]
            check_module("backbone.module", module)
        return settings, module
    if hasattr(backbone, "state_dict"):
        return None, check_module("backbone", backbone)
    return backbone, None


def _in_processes(settings: PretrainOptions, argv: list[str]) -> PretrainedRun:
    """As ``--devices`` does: the same command line in several processes of their own."""
    from hardviews.launch.launcher import launch
    from hardviews.setup.defaults import run_folder_name
    from hardviews.setup.fabric import check_shares

    check_shares(settings, settings.devices, settings.nodes)
    out = settings.out or str(run_folder_name(settings, time.strftime("%Y%m%d-%H%M%S")))
    command = ["pretrain", *argv, f"--out={out}"]
    code = launch(command, settings.devices, settings.nodes, lambda: how_to_resume(out))
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt(how_to_resume(out))
    if code in {128 + number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}:
        raise StoppedError(how_to_resume(out), code - 128)
    if code:
        raise RunError(f"the processes of the run ended with exit code {code}; what they said is on standard error")
    return PretrainedRun(Path(out))
