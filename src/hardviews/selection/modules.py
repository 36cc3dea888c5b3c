"""Finds the modules that a function calls, without calling it."""

from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

MOST = 64  # entries of a list or dictionary to search; larger ones hold data


def modules_of(called: Any) -> list[nn.Module]:
    """The modules that a callable is, is bound to, or refers to through a variable, without repeats.

    Searches closures, default arguments, global variables, ``functools.partial``, small lists and dictionaries, the
    functions found there (global functions of the same file only), and the attributes of objects that are modules or
    functions. It does not search attributes of attributes: it misses the model of ``self.trainer.model``.

    Args:
        called: a module, a function, a bound method, a ``partial``, or an object with ``__call__``.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused

    def look(thing: Any) -> None:
        if isinstance(thing, nn.Module):
            found[id(thing)] = thing
        elif id(thing) not in seen:
            seen[id(thing)] = thing
            for part in _parts(thing):
                look(part)

    look(called)
    return list(found.values())


def _parts(thing: Any) -> Iterator[Any]:
    """The objects that an object refers to."""
    if isinstance(thing, FunctionType):
        yield from _variables(thing)
    elif isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, dict | list | tuple):
        yield from _entries(thing)
    elif not isinstance(thing, type | ModuleType):
        yield getattr(type(thing), "__call__", None)  # noqa: B004  # if it is callable
        for value in getattr(thing, "__dict__", {}).values():
            parts = (value, *_entries(value))
            yield from (part for part in parts if isinstance(part, nn.Module | FunctionType | MethodType | partial))


def _entries(thing: Any) -> list[Any]:
    """The entries of a small list or dictionary."""
    if not isinstance(thing, dict | list | tuple) or len(thing) > MOST:
        return []
    return list(thing.values() if isinstance(thing, dict) else thing)


def _variables(function: FunctionType) -> Iterator[Any]:
    """The values of a function's closure, global variables and default arguments."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        # Functions of libraries refer to much, but to no module of the caller's.
        if not isinstance(value, FunctionType) or value.__module__ == function.__module__:
            yield value


def _names(code: CodeType) -> Iterator[str]:
    """The names that code looks up, including those in its comprehensions and lambdas."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
