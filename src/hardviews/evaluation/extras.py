"""Optional packages that some protocols need."""

from importlib.util import find_spec

from hardviews.errors import InputError


def require_package(protocol: str, module: str, package: str) -> None:
    """Raises InputError with the install command if a module is not installed."""
    if find_spec(module) is None:
        raise InputError(f"{protocol} needs {package}: pip install 'hardviews[evaluation]'")
