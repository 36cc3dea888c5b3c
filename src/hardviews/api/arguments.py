"""Translates keyword arguments into command-line options, and errors back."""

import dataclasses
import functools
import inspect
import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hardviews.errors import InputError, RunError, StoppedError
from hardviews.launch.global_state import global_state_restored
from hardviews.launch.signals import handlers_restored

Function = TypeVar("Function", bound=Callable[..., Any])

COMMAND_LINE_ONLY = ("json", "doctor", "help", "dry_run")


def argv_of(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``{"method": {"name": "simclr", "dim": 64}, "seed": 2}`` as ``--method.name=simclr --method.dim=64 --seed=2``.

    Raises:
        InputError: a value that no option takes.
    """
    argv: list[str] = []
    for name, value in settings.items():
        if not prefix and name.partition(".")[0] in COMMAND_LINE_ONLY:
            raise InputError(f"unknown option {name}; it is one of the command line alone")
        if isinstance(value, Mapping):
            argv += argv_of(value, f"{prefix}{name}.")
        else:
            argv.append(f"--{(prefix + name).replace('_', '-')}={_text(prefix + name, value)}")
    return argv


def _text(name: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):  # a PretrainedRun too
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of numpy and torch
        value = value.tolist()
    try:
        return json.dumps(value)
    except TypeError:
        raise InputError(f"{name}: it takes no value of type {type(value).__name__}") from None


def with_call_errors(function: Function) -> Function:
    """Raises the command line's errors in the words of a call. If Ctrl-C stops a run, it raises KeyboardInterrupt and
    says how the run continues; other signals are raised again for the caller's handler."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        raised: BaseException
        number = 0
        try:
            # Around everything, since what the function imports changes the process too.
            with handlers_restored(), global_state_restored():
                return function(*arguments, **keywords)
        except (InputError, RunError) as error:
            raised = type(error)(_as_call(str(error), function.__name__))
        except KeyboardInterrupt as interrupt:
            raised = KeyboardInterrupt(_as_call(str(interrupt), function.__name__))
        except StoppedError as stopped:
            number, line = stopped.signal, _as_call(str(stopped), function.__name__)
            raised = KeyboardInterrupt(line) if number == signal.SIGINT else StoppedError(line, number)
        # Not where it was caught: there it would hold on to the error before it, whose frames have the run's memory.
        if isinstance(raised, StoppedError):
            signal.raise_signal(number)
        raise raised

    return call  # type: ignore[return-value]


def _as_call(line: str, function: str) -> str:
    """``--batch-size`` is ``batch_size`` in Python."""

    def underscored(found: re.Match[str]) -> str:
        return found[1].replace("-", "_")

    line = line.replace("hardviews pretrain --method NAME --help", f"help(hardviews.{function})")
    line = line.replace("see --help", f"see help(hardviews.{function})").replace("the same command", "the same call")
    line = re.sub(r"with --out (\S+)", r"with out=\1", line).replace("to --protocol", "to protocols")
    line = re.sub(r"(?<![\w/.-])--([a-z][\w.-]*\w)", underscored, line)
    return re.sub(r"^((?:arm \S+: )?[a-z.]+(?:-[a-z]+)+)(?=: )", underscored, line)


def with_options_of(*options: type[Any], skip: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Shows the fields of dataclasses in a function's signature and help, in place of ``**options``."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {parameter.name for parameter in own} | set(skip)
        fields = {field.name: field for kind in options for field in dataclasses.fields(kind)}
        more = [_parameter(field) for field in fields.values() if field.name not in names]
        vars(function)["__signature__"] = signature.replace(parameters=[*own, *more])
        texts = [(inspect.getdoc(kind) or "").partition("Args:\n")[2] for kind in options]
        function.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n\nOptions:\n" + "\n".join(texts)
        return function

    return decorate


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, annotation=field.type,
        default=None if default is dataclasses.MISSING else default,
    )  # fmt: skip


def joined(option: str, names: Any) -> str:
    """Names with commas between, of a list of them or of a text; raises InputError for anything else."""
    if isinstance(names, str):
        return names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{option}: got {names!r}; give a list of names")
    return ",".join(names)


def check_module(option: str, module: Any) -> Any:
    """The module itself; raises InputError for anything else, such as a class of modules."""
    from torch import nn

    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise InputError(f"{option}: got {got}; give an nn.Module, an object")
    return module


def names_or_object(value: Any) -> tuple[str | None, Any]:
    """The name of data as the command line takes it, and None; or the name and the source of an object.

    Args:
        value: a path, a name, a map-style ``Dataset``, a list of images, or a source that ``as_source`` has made.
    """
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value), None
    from hardviews.data.sources import as_source
    from hardviews.data.sources.dataset import DatasetSource

    source = value if isinstance(value, DatasetSource) else as_source(value)
    return f"object:{source.name}", source
