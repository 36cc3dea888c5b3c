"""The table of faults, without running them: it names exactly what the tests are marked with."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "faults.md"


def marked() -> Iterator[str]:
    for file in TESTS.rglob("test_*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in (inner for decorator in function.decorator_list for inner in ast.walk(decorator)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                    fault = " | ".join(ast.literal_eval(argument) for argument in node.args)
                    yield f"| {fault} | `{file.relative_to(TESTS.parent).as_posix()}::{function.name}` |"


def test_the_table_is_that_of_the_tests() -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert rows == sorted(marked()), "make faults writes it anew"
