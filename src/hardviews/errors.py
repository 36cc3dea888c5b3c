"""Errors for users: one line each, with what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What the user gave can't be used and the user can fix it. The command line exits with 2; nothing was written."""


class RunError(RuntimeError):
    """A run could not continue. The command line exits with 1; what was saved before is intact."""


class PeerError(RunError):
    """Another process of the run is gone. That process prints why; this one only ends."""


class StoppedError(Exception):
    """A run was asked to stop by a signal, has saved and leaves. The command line exits with 128 and the signal's
    number, as shells count."""

    def __init__(self, line: str, signal: int) -> None:
        super().__init__(line)
        self.signal = signal


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for an unknown name, with the nearest known names."""
    names = sorted(known)
    close = get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif len(names) <= 20:
        hint = f"known: {', '.join(names)}"
    else:
        hint = f"none of the {len(names)} known names is close"
    return InputError(f"unknown {kind} {name!r}; {hint}")
