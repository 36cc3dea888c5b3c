"""Pages in a real browser, the system's Chromium, offline. conftest.py makes ``browser`` a fixture of all tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        # Containers, where tests mostly run, give no namespaces to its sandbox; the page is our own.
        try:
            launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:  # such as the stub that asks for a snap
            pytest.skip(f"{path} does not start: {' '.join(str(error).split())[:200]}")
        yield launched
        launched.close()


class Shown:
    """A page that is shown, and what the browser had to say of it."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light", query: str = "") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page: Any = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(file.as_uri() + query)
        self.file = file

    def __enter__(self) -> "Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who can't see or use a mouse, one line each."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        return [
            f"{found['id']}: {node['html'][:160]}"
            for found in axe.Axe().run(self.page).response["violations"]
            if found["id"] != "empty-table-header"  # the corner of a table whose rows have headers
            for node in found["nodes"]
        ]
