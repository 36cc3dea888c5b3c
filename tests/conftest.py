"""Fixtures of all tests, and the table of the faults that tests inject: ``make faults`` writes it."""

import os
from pathlib import Path

import pytest
import torch

from tests.browsing import browser as browser

os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "startup"), os.environ.get("PYTHONPATH", "")])

FAULTS = """# Faults, and what becomes of them

Every row is a test that puts the fault into a real run of `hardviews pretrain` and has passed; `make faults` runs them
and writes this file. No run may hang, lose what was saved, or train on what is not there.

| fault | what happens | test |
|---|---|---|
"""


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, metavar="FILE", help="write a table of the faults that were injected")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("endure") and not os.environ.get("ENDURE"):
            item.add_marker(pytest.mark.skip(reason="make endure"))
        # Reports, which come from other processes, have properties but no markers.
        item.user_properties += [("fault", list(mark.args)) for mark in item.iter_markers("fault")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    file: Path | None = terminalreporter.config.getoption("--faults")
    if file is None:
        return
    passed, failed = (_rows(terminalreporter.getreports(outcome)) for outcome in ("passed", "failed"))
    file.write_text(FAULTS + "".join(sorted(passed - failed)), encoding="utf-8")


def _rows(reports: list[pytest.TestReport]) -> set[str]:
    return {
        f"| {' | '.join(fault)} | `{report.nodeid.partition('[')[0]}` |\n"
        for report in reports
        for name, fault in report.user_properties
        if name == "fault" and isinstance(fault, list)
    }
