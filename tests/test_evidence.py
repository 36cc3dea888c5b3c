"""The script behind EVIDENCE.md: its command lines are understood."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from hardviews.commands import compare

FILE = Path(__file__).parents[1] / "benchmarks" / "evidence.py"


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    pytest.importorskip("pyarrow")
    spec = importlib.util.spec_from_file_location("evidence", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "seeds"), [("simsiam", 5), ("simclr", 3), ("imagenette", 3), ("ibot", 3), ("dino", 3)]
)
def test_command_lines_are_those_of_the_plan(evidence: ModuleType, name: str, seeds: int) -> None:
    assert name in evidence.COMPARISONS
    verb, *argv = evidence.command(name, Path("packs"), Path("out"))
    request, _, _ = compare.parse(argv)
    assert verb == "compare"
    assert [arm.name for arm in request.arms] == ["random", "hardest", "cheap"]
    assert request.baseline == "random"
    assert request.seeds == tuple(range(seeds))
    random, hardest, cheap = (arm.options for arm in request.arms)
    assert (random.scoring, hardest.scoring) == ("exact", "exact")
    assert (cheap.score_resolution, cheap.score_network) != (hardest.score_resolution, hardest.score_network)
    assert random.views == hardest.views == cheap.views
