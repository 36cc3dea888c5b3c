"""What ``hardviews`` shows: its names, their help, and the examples in it."""

import doctest
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import hardviews
from hardviews.models.load import LoadedModel
from hardviews.options.pretraining import PretrainOptions

CALLS = ("pretrain", "load", "evaluate", "embed", "export", "compare", "report")
ROOT = Path(__file__).parents[2]


def test_public_names_and_nothing_else() -> None:
    code = "import sys, hardviews; print(*dir(hardviews)); print('torch' in sys.modules, 'numpy' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    names, light = printed.splitlines()
    assert names.split() == sorted([*hardviews.__all__, "__version__"])
    assert light == "False False"
    assert set(CALLS) <= set(hardviews.__all__)
    assert all(getattr(hardviews, name) is not None for name in hardviews.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = hardviews.pretrian


def test_methods_policies_and_protocols_by_name() -> None:
    from hardviews.methods import DINO, SimCLR

    assert hardviews.methods.find("simclr") is SimCLR
    assert hardviews.methods.find("dino") is DINO
    assert "simclr" in hardviews.methods.names()
    assert hardviews.policies.named("hardest") is hardviews.policies.hardest
    assert "hardest" in hardviews.policies.names()
    assert callable(hardviews.protocols.find("knn"))
    with pytest.raises(ImportError):
        from hardviews.methods import Simclr  # noqa: F401


def test_dir_shows_what_the_docs_name() -> None:
    methods, policies, protocols = hardviews.methods, hardviews.policies, hardviews.protocols
    classes = set(dir(methods)) - {"find", "names"}
    assert {name.lower() for name in classes} == set(methods.names())  # of every file, as it is written
    assert {"BYOL", "DINO", "IBOT", "LeJEPA", "SimCLR", "SimSiam", "VICReg"} <= classes
    assert {"names", "named", "policy", "hardest", "sampled", "Unexpected"} <= set(dir(policies))
    assert not {"torch", "Tensor", "re", "InputError", "ids_on"} & set(dir(policies))
    assert set(dir(protocols)) == {"find", "names"}
    assert all(hasattr(module, name) for module in (methods, policies, protocols) for name in dir(module))


def test_names_do_not_import_torch() -> None:
    code = "import sys, hardviews as h; h.methods.names(); h.protocols.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", CALLS)
def test_help_shows_every_option(name: str) -> None:
    function = getattr(hardviews, name)
    parameters = inspect.signature(function).parameters
    assert "Example:" in function.__doc__
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if name == "pretrain":
        assert {field.name for field in fields(PretrainOptions)} <= parameters.keys()
        assert parameters["batch_size"].default == 256
        assert "learning rate per 256 images" in function.__doc__


@pytest.mark.parametrize("documented", [*CALLS, "PretrainedRun", "LoadedModel.embed"])
def test_examples_run(documented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    item: Any = LoadedModel.embed if "." in documented else getattr(hardviews, documented)
    examples = doctest.DocTestFinder(recurse=False).find(item, documented, globs={})
    assert sum(len(test.examples) for test in examples) >= 2
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for test in examples:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
