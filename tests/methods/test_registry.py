"""Methods are found by file name or dotted path."""

import sys

import pytest

from hardviews import methods
from hardviews.errors import InputError
from hardviews.methods.simclr import SimCLR


def test_every_file_is_a_method() -> None:
    assert {"simsiam", "simclr"} <= set(methods.names())
    for name in methods.names():
        assert methods.find(name).__name__.lower() == name


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
