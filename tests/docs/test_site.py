"""The site is built without a warning and shown in a real browser, offline: on a phone, in the dark, by keyboard."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import Shown

ROOT = Path(__file__).parents[2]
PHONE = 360  # pixels
WIDER = """() => [...document.querySelectorAll('article *')].filter(one => {
  let behind = one;
  while (behind && !/auto|scroll|hidden/.test(getComputedStyle(behind).overflowX)) behind = behind.parentElement;
  return !behind && one.getBoundingClientRect().right > innerWidth + 1;
}).map(one => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warnings, such as of broken links or pages that nothing leads to, are errors."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_there_and_asks_for_nothing_from_outside(browser: Any, site: Path) -> None:
    pages = sorted(site.glob("**/*.html"))
    wanted = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").glob("**/*.md")}
    assert wanted <= {page.relative_to(site).with_suffix("") for page in pages}
    for page in pages:
        with Shown(browser, page, PHONE) as shown:
            assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == [], page.name
            assert shown.said == [], page.name
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= PHONE, page.name
            assert shown.page.evaluate(WIDER) == [], page.name
            broken = "images => images.filter(image => !image.complete || !image.naturalWidth).length"
            assert shown.page.eval_on_selector_all("img:not([loading=lazy])", broken) == 0, page.name


def test_search_works_offline(browser: Any, site: Path) -> None:
    with Shown(browser, site / "search.html", query="?q=unexpected+policy") as shown:
        shown.page.wait_for_selector("#search-results li")
        assert "Selection and scoring" in shown.page.inner_text("#search-results")


def test_the_reference_names_every_public_function(site: Path) -> None:
    import hardviews

    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    modules = {"methods", "policies", "protocols"}
    assert [name for name in hardviews.__all__ if name not in modules and f'id="hardviews.{name}"' not in text] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index", "commands", "cost", "api/verbs", "evidence"])
def test_everyone_can_read_it(browser: Any, site: Path, page: str, scheme: str) -> None:
    with Shown(browser, site / f"{page}.html", scheme=scheme) as shown:
        assert shown.violations() == []
