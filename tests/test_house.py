"""The package is built as ARCHITECTURE.md says: no import circle, three roads without a way back up, short lines."""

import re
import runpy
import subprocess
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


def test_an_adapter_is_at_most_60_lines() -> None:
    files = list((ROOT / "src/hardviews/adapters").glob("[a-z]*.py"))
    assert len(files) >= 2
    assert {file.name: len(file.read_text().splitlines()) > 60 for file in files} == {f.name: False for f in files}


WIDEST = 120  # columns
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".sbatch", ".j2", ".css"}
# A command, a link or a pragma that can't be broken, and the rows of a table.
UNBREAKABLE = re.compile(r"https?://|^\s*\|")
PRAGMA = re.compile(r"\s+# (type|noqa|pyright|pragma)\b.*")


def too_wide(text: str) -> list[int]:
    """Numbers of the lines over ``WIDEST``, without table rows, addresses, Markdown's code blocks and pragmas."""
    found, code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if len(PRAGMA.sub("", line)) > WIDEST and not code and not UNBREAKABLE.search(line):
            found.append(number)
    return found


def test_a_wide_line_is_found() -> None:
    wide = "word " * 25
    assert too_wide(f"{wide}\nshort\n{wide}") == [1, 3]
    assert too_wide(f"| {wide} |\n```\n{wide}\n```\nhttps://{wide}\nx = 1  # type: ignore {wide}") == []


def test_no_line_is_over_120_columns() -> None:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a clone")
    files = [ROOT / name for name in listed.stdout.splitlines() if Path(name).suffix in TEXTS]
    assert len(files) > 100
    wide = {str(file.relative_to(ROOT)): too_wide(file.read_text(encoding="utf-8")) for file in files if file.exists()}
    assert {name: numbers for name, numbers in wide.items() if numbers} == {}
