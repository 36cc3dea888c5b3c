"""A report in a real browser, offline: it asks for nothing, says what it should, and can be read everywhere."""

import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hardviews.cli import main
from tests.analysis.reading import Page
from tests.browsing import Shown

PHONE = 360  # pixels

# Of elements: text colour (of SVG, the fill) and the first background behind them that is not transparent.
COLOURS = """elements => elements.map(element => {
  const own = getComputedStyle(element);
  let behind = element;
  const clear = one => /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(one).backgroundColor);
  while (behind && clear(behind)) behind = behind.parentElement;
  const ground = behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)';
  return [element.ownerSVGElement ? own.fill : own.color, ground, element.textContent.slice(0, 40)];
})"""
BOXES = """svgs => svgs.map(svg => {
  const box = svg.getBoundingClientRect();
  return [box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY];
})"""
# Of every plot: its box, those of its words, and how large a letter is on the screen.
WORDS = """svgs => svgs.map(svg => {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const edges = r => [r.left - box.left, r.top - box.top, r.right - box.left, r.bottom - box.top];
  return {name: svg.closest('figure').id, width: box.width, height: box.height,
    words: [...svg.querySelectorAll('text')].map(text => ({
      text: text.textContent, box: edges(text.getBoundingClientRect()),
      size: parseFloat(getComputedStyle(text).fontSize) * scale}))};
})"""


@pytest.fixture(scope="module")
def reports(strange_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of one run, and one of that run beside a copy of half of it."""
    folder = tmp_path_factory.mktemp("browser")
    other = folder / "another-run-with-a-name-that-is-far-too-long-for-the-legend-of-a-figure"
    shutil.copytree(strange_run, other, ignore=shutil.ignore_patterns("checkpoints", "epoch-0004.npz", "summary.json"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("policy: hardest", "policy: easiest"))
    found = {"one": folder / "one.html", "several": folder / "several.html"}
    assert main(["report", str(strange_run), "--out", str(found["one"])]) == 0
    assert main(["report", str(strange_run), str(other), "--out", str(found["several"])]) == 0
    return found


def unfolded(shown: Shown) -> Any:
    """The page with everything open that can be opened."""
    shown.page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    return shown.page


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours, as a browser writes them."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_wcags() -> None:
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", ["one", "several"])
def test_nothing_is_asked_for_and_nothing_goes_wrong(browser: Any, reports: dict[str, Path], name: str) -> None:
    with Shown(browser, reports[name]) as shown:
        assert [url for url in shown.asked if not url.startswith("data:")] == [reports[name].as_uri()]
        assert shown.said == []
        broken = "images => images.filter(image => !image.complete || !image.naturalWidth).length"
        assert shown.page.eval_on_selector_all("img", broken) == 0


def test_figures_are_read_back(browser: Any, reports: dict[str, Path]) -> None:
    wanted = Page(reports["one"].read_text(encoding="utf-8"))
    with Shown(browser, reports["one"]) as shown:
        for name, form in (("knn_top1", "{:.1%}"), ("iou_kept", "{:.2f}"), ("seconds", "{:.0f} s")):
            element = shown.page.locator(f'[data-name="{name}"]')
            (value,) = wanted.values(name)
            assert value is not None
            assert float(element.get_attribute("data-value")) == value
            assert element.inner_text() == form.format(value)
            assert element.bounding_box()["height"] > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn(browser: Any, reports: dict[str, Path], scheme: str) -> None:
    with Shown(browser, reports["one"], scheme=scheme) as shown:
        figures = unfolded(shown).eval_on_selector_all("figure svg, .moment svg, .map svg", BOXES)
        assert len(figures) > 40
        with Image.open(io.BytesIO(shown.page.screenshot(full_page=True))) as opened:
            whole = opened.convert("RGB")
        for left, top, right, bottom in figures:
            assert right - left > 100
            assert bottom - top > 60
            colours = whole.crop((int(left), int(top), int(right), int(bottom))).getcolors(1 << 18)
            assert colours is not None
            ground = max(count for count, _ in colours)
            # Something is there, and more than a frame.
            assert len(colours) > 8
            assert ground < 0.995 * sum(count for count, _ in colours)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(browser: Any, reports: dict[str, Path], scheme: str) -> None:
    with Shown(browser, reports["several"], scheme=scheme) as shown:
        selectors = "p, li, dt, dd, td, th, caption, figcaption, summary, label, h1, h2, h3, h4, a, figure svg text"
        found = shown.page.eval_on_selector_all(selectors, COLOURS)
        assert len(found) > 300
        weak = [(text, colour, ground) for colour, ground, text in found if contrast(colour, ground) < 4.5]
        assert weak == []
        ground = shown.page.eval_on_selector_all("body", COLOURS)[0][1]
        assert (contrast(ground, "rgb(0, 0, 0)") < 2) == (scheme == "dark")
        # Lines, bars and markers too, of which 3 is asked.
        for run in range(8):
            value = f"getComputedStyle(document.documentElement).getPropertyValue('--run-{run}')"
            channels = [str(int(shown.page.evaluate(value).strip()[at : at + 2], 16)) for at in (1, 3, 5)]
            assert contrast(f"rgb({', '.join(channels)})", ground) > 3


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("width", [PHONE, 1280])
def test_labels_are_whole_and_apart(browser: Any, reports: dict[str, Path], width: int, name: str) -> None:
    with Shown(browser, reports[name], width) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        unfolded(shown)
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        for plot in shown.page.eval_on_selector_all("figure svg", WORDS):
            words = plot["words"]
            assert len(words) > 4
            for word in words:
                left, top, right, bottom = word["box"]
                assert left > -2, (plot["name"], word)
                assert top > -2, (plot["name"], word)
                assert right < plot["width"] + 2, (plot["name"], word)
                assert bottom < plot["height"] + 2, (plot["name"], word)
                assert word["size"] > 8.5, (plot["name"], word)
            for at, one in enumerate(words):
                for other in words[at + 1 :]:
                    a, b = one["box"], other["box"]
                    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                    # Boxes are of lines, a little higher than their letters.
                    assert wide < 1 or high < 0.3 * one["size"], (plot["name"], one["text"], other["text"])


def test_colours_are_chosen_from_the_keyboard(browser: Any, reports: dict[str, Path]) -> None:
    with Shown(browser, reports["one"]) as shown:
        page = shown.page
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        order = []
        for _ in range(3):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert order[:2] == ["skip", "theme-auto"]
        page.focus("#theme-auto")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.querySelector('#theme-dark').checked")
        assert contrast(page.evaluate(ground), light) > 12
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(ground) == light
        page.focus(".skip")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Any, reports: dict[str, Path], name: str, scheme: str) -> None:
    with Shown(browser, reports[name], scheme=scheme) as shown:
        unfolded(shown)
        assert shown.violations() == []


def test_pictures_are_enlarged_from_the_keyboard(browser: Any, reports: dict[str, Path]) -> None:
    with Shown(browser, reports["one"]) as shown:
        page = shown.page
        dialog = page.locator("dialog")
        for selector in (".candidates button.enlarge", ".moment > button.enlarge", ".map button.enlarge"):
            button = page.locator(selector).first
            before = button.bounding_box()
            assert not dialog.is_visible()
            button.focus()
            page.keyboard.press("Enter")
            assert dialog.is_visible()
            large = dialog.locator(".large > *").bounding_box()
            assert large["height"] > 1.5 * before["height"] or large["width"] > 1.5 * before["width"], selector
            assert dialog.locator("p").inner_text() == " ".join(button.get_attribute("data-words").split())
            assert page.evaluate("document.activeElement.closest('dialog') !== null")  # the focus is in it
            page.keyboard.press("Escape")
            assert not dialog.is_visible()
            assert button.evaluate("button => button === document.activeElement")
        assert shown.said == []


def test_tables_of_several_runs_fit_a_phone(browser: Any, reports: dict[str, Path]) -> None:
    """Every number is on the screen, with the name of its run, without scrolling a table sideways."""
    with Shown(browser, reports["several"], PHONE) as shown:
        wide = "tables => tables.filter(table => table.scrollWidth > table.parentElement.clientWidth + 1).length"
        assert unfolded(shown).eval_on_selector_all("table.stack", wide) == 0
        cell = shown.page.locator('td[data-name="knn_top1"]').first
        of = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert cell.get_attribute("data-of") in of


def test_paper_is_white_and_has_no_buttons(browser: Any, reports: dict[str, Path]) -> None:
    with Shown(browser, reports["one"], scheme="dark") as shown:
        shown.page.emulate_media(media="print", color_scheme="dark")
        assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for selector in ("fieldset.theme", "nav", "details"):
            assert not shown.page.locator(selector).first.is_visible()
        assert shown.page.locator("figure svg").first.is_visible()
        assert len(shown.page.pdf(format="A4")) > 50_000
