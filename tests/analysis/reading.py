"""A report read back as a browser would: elements, their text, and figures by name."""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

VOID = {"meta", "img", "input", "br", "link"}


@dataclass
class Element:
    """A tag with its attributes, and all text within it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    path: tuple[str, ...] = ()


@dataclass
class Page(HTMLParser):
    """Every element of a page, in order; fails where tags do not close as they open."""

    html: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = tuple(element.tag for element in self._open)
        element = Element(tag, {name: value or "" for name, value in attrs}, path=path)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def values(self, name: str) -> list[float | None]:
        """A key figure, of every run."""
        found = [element.attributes for element in self.elements if element.attributes.get("data-name") == name]
        found.sort(key=lambda attributes: int(attributes.get("data-run", 0)))
        return [float(one["data-value"]) if one["data-value"] else None for one in found]

    def missing(self) -> str:
        """All sentences of what could not be told."""
        return " ".join(element.text for element in self.elements if element.attributes.get("class") == "missing")

    def figures(self) -> list[str]:
        return [element.attributes["id"] for element in self.all("figure")]

    def caption(self, figure: str) -> str:
        place = next(at for at, element in enumerate(self.elements) if element.attributes.get("id") == figure)
        return next(element.text for element in self.elements[place:] if element.tag == "figcaption")


def check(html: str) -> Page:
    """What holds of every report, whatever it shows."""
    page = Page(html)
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids)), sorted(id for id in ids if ids.count(id) > 1)
    # Whatever points to an id points to one that is there.
    for element in page.elements:
        for name in ("aria-labelledby", "for"):
            for target in element.attributes.get(name, "").split():
                assert target in ids, target
        address = element.attributes.get("href") or element.attributes.get("src") or ""
        assert address == "" or address.startswith("data:image/") or address.removeprefix("#") in ids, address
    for target in re.findall(r"url\(#([^)]+)\)", html):
        assert target in ids, target
    # Nothing is fetched: no address, no import, and only the one script whose hash the policy names.
    without_names = re.sub(r'xmlns(:\w+)?="[^"]+"', "", html)
    assert not re.search(r"https?:|@import|url\((?!#)", without_names), "an address"
    (script,) = page.all("script")
    digest = b64encode(sha256(script.text.encode()).digest()).decode()
    assert not page.all("link")
    policy = next(
        e.attributes["content"] for e in page.all("meta") if "content" in e.attributes and "default" in str(e)
    )
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    # Text alternatives.
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == len(page.all("svg"))
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.attrib["role"] == "img"
        told = [child.text or "" for child in list(root)[:2] if child.tag in ("title", "desc")]
        assert len(told) == 2, drawing[:200]
        assert all(told), drawing[:200]
    assert all(image.attributes["alt"] for image in page.all("img"))
    # Headings go down one at a time, from the only h1.
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    assert page.all("html")[0].attributes["lang"] == "en"
    assert all(cell.attributes.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("main")) == 1
    return page
