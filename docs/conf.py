"""The documentation site: `make site` builds it into site/, with broken links and missing pages as errors."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = METADATA["name"]
author = "The hardviews developers"
release = version = METADATA["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True  # a name in the API reference that leads nowhere is an error
# Types of other libraries, whose references we don't load (a build needs no network), and internal ones.
nitpick_ignore_regex = [("py:.*", r"(?!hardviews\.[A-Z]).*")]

html_theme = "furo"
html_title = "hardviews"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"source_repository": METADATA["urls"].get("Repository", ""), "source_branch": "main"}
html_theme_options = {key: value for key, value in html_theme_options.items() if METADATA["urls"].get("Repository")}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests run the notebooks; the site shows what is stored in them
napoleon_custom_sections = [("Options", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
copybutton_exclude = ".linenos, .gp, .go"

# Files outside of docs/ that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/EVIDENCE.md": "evidence.md",
    "benchmarks/RESULTS.md": "results.md",
}


def whole_pages(app: Any, page: str, source: list[str]) -> None:
    """Puts a file of the repository in place of its mark, with links that are right from docs/."""

    def text(match: re.Match[str]) -> str:
        file = ROOT / match.group(1)
        return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", lambda link: f"]({from_docs(file.parent / link.group(1))}",
                      file.read_text(encoding="utf-8"))  # fmt: skip

    source[0] = re.sub(r"<!-- page of (.*?) -->", text, source[0])


def from_docs(file: Path) -> str:
    return Path(os.path.relpath(file, ROOT / "docs")).as_posix()


def links_to_pages(app: Any, page: str, source: list[str]) -> None:
    """Lets links to files that are pages lead to these pages."""
    for file, target in PAGES.items():
        source[0] = source[0].replace(f"](../{file}", f"]({target}")


def help_of_verbs(app: Any, page: str, source: list[str]) -> None:
    """Puts what the command line prints where a page asks for it."""

    def printed(match: re.Match[str]) -> str:
        command = [sys.executable, "-m", "hardviews.cli", *match.group(1).split()[1:], "--help"]
        env = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
        return f"```text\n{subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout}```"

    source[0] = re.sub(r"<!-- help of (.*?) -->", printed, source[0])


def setup(app: Any) -> None:
    for change in (whole_pages, links_to_pages, help_of_verbs):
        app.connect("source-read", change)
