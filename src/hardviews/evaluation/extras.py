"""Packages that some protocols need and an installation may lack."""

from importlib.util import find_spec

from hardviews.errors import InputError


def needs(protocol: str, module: str, package: str) -> None:
    """Raises InputError where a module is not installed, saying how to install it."""
    if find_spec(module) is None:
        raise InputError(f"{protocol} needs {package}: pip install 'hardviews[evaluation]'")
