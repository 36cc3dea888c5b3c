"""Methods are found by file name or dotted path."""

import re
import sys
from pathlib import Path

import pytest

from hardviews import methods
from hardviews.errors import InputError
from hardviews.methods.simclr import SimCLR


def test_every_file_is_a_method() -> None:
    assert {"simsiam", "simclr"} <= set(methods.names())
    for name in methods.names():
        assert methods.find(name).__name__.lower() == name


@pytest.mark.parametrize("name", ["byol", "simclr", "vicreg", "lejepa", "mocov3", "swav", "dinov2"])
def test_a_method_is_its_own_file_and_its_recipes(name: str) -> None:
    """No other source file imports it or names it, so adding it touched none."""
    source = Path(methods.__file__).parents[1]
    own = {source / "methods" / f"{name}.py", source / "recipes" / f"{name}.py"}
    naming = re.compile(rf"methods\.{name}\b|\"{name}\"|'{name}'")
    others = {path for path in source.rglob("*.py") if naming.search(path.read_text(encoding="utf-8"))} - own
    others = {path for path in others if path.parent != source / "api"}  # whose examples name methods
    assert others - {source / "recipes" / name for name in ("demo.py", "small.py")} == set()


def test_dotted_path_reaches_a_method_elsewhere() -> None:
    assert methods.find("hardviews.methods.simclr.SimCLR") is SimCLR


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("simsaim", "did you mean simsiam"),
        ("base", "unknown method"),
        ("nowhere.module.Class", "nowhere"),
        ("hardviews.methods.simclr.SimCLREncoding", "no Method class"),
        ("hardviews.methods.simclr.Nothing", "no Method class"),
    ],
)
def test_unknown_ones_are_named(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        methods.find(name)


def test_listing_names_imports_no_torch() -> None:
    import subprocess

    code = "import sys, hardviews.methods as m; m.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
