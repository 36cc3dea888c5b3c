"""How ``--help`` looks: in groups, types as a person writes them, 80 columns."""

import argparse
import shutil
import types
import typing
from typing import Any


class Formatter(argparse.HelpFormatter):
    """argparse's, in the width of the terminal between 60 and 100 columns."""

    def __init__(self, prog: str, **_: Any) -> None:
        width = min(max(shutil.get_terminal_size().columns, 60), 100)
        super().__init__(prog, max_help_position=26, width=width - 2)


def written(name: str, hint: Any) -> str:
    """What stands for an option's value: ``N``, ``X``, ``{auto,on,off}``, or the last word of its name."""
    choices = literals(hint)
    if hint is bool:
        return "{true,false}"
    kinds = list(dict.fromkeys(_kinds(name, hint)))
    return "|".join([*kinds, *choices]) if kinds else "{" + ",".join(choices) + "}"


def _kinds(name: str, hint: Any) -> list[str]:
    simple = {int: "N", float: "X", str: name.rpartition(".")[2].rpartition("_")[2].upper()}
    if hint in simple:
        return [simple[hint]]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for one in arguments for kind in _kinds(name, one)]
    if origin in (list, tuple):
        inner = _kinds(name, arguments[0])[0]
        return [f"{inner},{inner},..."]
    return ["{KEY: VALUE}"] if origin is dict else []


def literals(hint: Any) -> list[str]:
    """The words that a type takes, in a ``Literal`` or in a union with others."""
    if typing.get_origin(hint) is typing.Literal:
        return [str(word) for word in typing.get_args(hint)]
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    return [word for one in parts for word in literals(one)]


def with_default(text: str, default: Any) -> str:
    """A help text with the default, unless there is none or the text tells it."""
    text = text.rstrip(".")
    if default in (None, {}, [], ()) or "default" in text:
        return text
    shown = str(default).lower() if isinstance(default, bool) else default
    shown = ",".join(map(str, shown)) if isinstance(shown, list | tuple) else shown
    return f"{text} (default: {shown})"
