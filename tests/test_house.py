"""The package is built as ARCHITECTURE.md says: no import circle, and three roads without a way back up."""

import re
import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
house: Any = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "house.py")))
IMPORTS = house.imports_of(ROOT / "src")
ROADS = [
    block
    for block in re.findall(
        r"```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text().partition("### Three roads")[2], re.S
    )
    if ".py" in block
]


def module(line: str) -> str:
    return f"hardviews.{line.split()[0].removesuffix('.py').replace('/', '.')}"


def test_a_circle_is_found_and_the_package_has_none() -> None:
    bent = {"a": frozenset("b"), "b": frozenset("ac"), "c": frozenset("a"), "d": frozenset("a")}
    assert list(house.circles(bent)) == [("a", "b"), ("a", "b", "c")]
    assert list(house.circles(IMPORTS)) == []
    assert list(house.circles(house.by_room(IMPORTS))) == []


def test_the_longest_chain() -> None:
    imports = {"a": frozenset("bd"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset[str]()}
    assert house.longest_chain(imports, "a") == ("a", "b", "c", "d")


def test_there_are_three_roads() -> None:
    assert len(ROADS) == 3


@pytest.mark.parametrize("road", ROADS)
def test_each_file_of_a_road_is_imported_by_the_one_above_it(road: str) -> None:
    above: list[tuple[int, str]] = []
    for line in road.splitlines():
        depth = len(line) - len(line.lstrip())
        above = [(before, name) for before, name in above if before < depth]
        if above:
            assert module(line) in IMPORTS[above[-1][1]], line
        above.append((depth, module(line)))
        for (_, upper), (_, lower) in pairwise(above):
            assert upper not in IMPORTS[lower], line
