"""Pages from templates: self-contained, with a policy that forbids the browser to load anything."""

from base64 import b64encode
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

MARK = '<meta name="generator" content="hardviews report">'  # identifies a file as one of ours


def rendered(name: str, package: str = "analysis", **values: Any) -> str:
    """A page.

    Args:
        name: of a template, which extends ``frame.html.j2``.
        package: the room that has it.
        values: what the template shows.
    """
    environment = Environment(
        loader=PackageLoader("hardviews", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style = environment.get_template("analysis/report.css.j2").render()
    script = environment.get_template("analysis/enlarge.js.j2").render()
    # Only this script may run, whatever else finds its way into the page.
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template(f"{package}/{name}").render(
        mark=Markup(MARK), style=Markup(style), script=Markup(script), digest=digest, version=version("hardviews"),
        **values,
    )  # fmt: skip
