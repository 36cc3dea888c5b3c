"""The page of a comparison: its answer, its figures, and how a browser shows it."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hardviews.commands.compare import parse
from hardviews.comparison.compare import PAGE, Comparison, form, write_page
from hardviews.comparison.jobs import Job
from hardviews.comparison.plan import jobs_of
from hardviews.comparison.statistics import MeasuredRun, compare, sentences
from tests.analysis.reading import Page, check
from tests.browsing import Shown

ACCURACY = {"random": (0.50, 0.52, 0.49), "hardest": (0.53, 0.56, 0.53)}
PLAN = {
    "baseline": "random", "epochs": 8, "steps_per_epoch": 4,
    "arms": {
        "random": {"seconds_per_epoch": 30.0, "equal_time_epochs": 8},
        "hardest": {"seconds_per_epoch": 40.0, "equal_time_epochs": 6},
    },
}  # fmt: skip


@dataclass
class Made:
    file: Path
    comparison: Comparison
    jobs: list[Job]

    @property
    def page(self) -> Page:
        return check(self.file.read_text(encoding="utf-8"))


def made(folder: Path, seeds: int = 3, failed: tuple[str, ...] = (), measured: bool = True) -> Made:
    """A comparison as if it had been carried out."""
    argv = f"--data shapes:64 --epochs 8 --seeds {seeds} --method simsiam --protocol knn --out {folder}"
    request, _, _ = parse([*argv.split(), "--arm", "cheap: --score-resolution 0.5"] if failed else argv.split())
    plan: dict[str, Any] = json.loads(json.dumps(PLAN))
    for arm in request.arms:
        plan["arms"].setdefault(arm.name, plan["arms"]["hardest"])
    jobs = list(jobs_of(request, plan, folder / "runs"))
    runs = []
    for job in jobs:
        if job.arm not in ACCURACY:
            continue
        value = ACCURACY[job.arm][job.seed] - (0.04 if job.epochs == 6 else 0)
        runs.append(MeasuredRun(job.arm, job.seed, job.epochs, 30.0 * job.epochs, {"knn_top1": value}))
        job.folder.mkdir(parents=True)
        if measured:
            with (job.folder / "evaluation.csv").open("w", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(("step", "epoch", "name", "value"))
                writer.writerows((4 * e, e, "knn_top1", 0.2 + (value - 0.2) * e / job.epochs) for e in range(0, 9, 2))
    timed = {name: entry["seconds_per_epoch"] for name, entry in plan["arms"].items()}
    rows = compare(runs, "random", 8, timed)
    said = sentences(rows, form)
    comparison = Comparison(rows, said, {}, failed, plan, {}, len(jobs), folder)
    file = write_page(request, jobs, comparison, print)
    assert file == folder / PAGE
    return Made(file, replace(comparison, page=file), jobs)


def test_the_answer_is_a_sentence(tmp_path: Path) -> None:
    page = made(tmp_path / "three").page
    assert page.all("h1")[0].text == "hardest against random: SimSiam on shapes:64 with resnet18"
    first, second, *_ = [one.text for one in page.all("p") if one.attributes.get("class") == "verdict"]
    # Differences at equal time: −0.01, 0, 0; at equal epochs: 0.03, 0.04, 0.04.
    assert first == (
        "At equal time (6 epochs), hardest can't be told from random: kNN top 1 −0.33 points "
        "(95 % interval −1.77 to +1.10, 3 seeds)."
    )
    assert second == (
        "At equal epochs, hardest is better than random: kNN top 1 +3.67 points "
        "(95 % interval +2.23 to +5.10, 3 seeds)."
    )
    assert page.figures() == ["difference-knn-top1", "accuracy-time"]
    assert "+3.67 (+2.23 to +5.10)" in page.caption("difference-knn-top1")
    power = next(one.text for one in page.all("p") if one.attributes.get("class") == "power")
    assert power.startswith("kNN top 1: 3 seeds can only show differences above 1.9 points; for 1 point take 5. ")
    assert "0.6 points (standard deviation with 4 degrees of freedom, so this is rough)" in power


def test_one_seed_and_no_curves_are_told(tmp_path: Path) -> None:
    page = made(tmp_path / "one", seeds=1, measured=False).page
    first = next(one.text for one in page.all("p") if one.attributes.get("class") == "verdict")
    assert "nothing can be said: one seed tells nothing of noise" in first
    assert "accuracy was not measured during training" in page.missing()
    assert "this takes two seeds" in page.missing()


def test_what_failed_is_on_the_page(tmp_path: Path) -> None:
    page = made(tmp_path / "failed", failed=("cheap-8-epochs-seed-0: out of <memory>",)).page
    assert "1 run failed" in page.missing()
    assert "cheap-8-epochs-seed-0: out of <memory>" in [one.text for one in page.all("li")]
    assert page.all("h1")[0].text.startswith("hardest against cheap against random")
    options = next(one.text for one in page.all("table") if "Its options" in one.text)
    assert "--score-resolution 0.5" in options


def test_a_page_is_not_made_without_what_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = made(tmp_path / "three")
    monkeypatch.setattr("hardviews.comparison.compare.find_spec", lambda name: None if name == "jinja2" else object())
    request, _, _ = parse(["--data", "shapes:64", "--epochs", "8", "--method", "simsiam"])
    assert write_page(request, one.jobs, one.comparison, print) is None
    assert "no comparison.html: jinja2 not installed" in capsys.readouterr().out


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing is loaded, nothing goes wrong, nothing is cut, and axe finds nothing."""
    one = made(tmp_path / "three")
    with Shown(browser, one.file, width, scheme) as shown:
        shown.page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert [url for url in shown.asked if not url.startswith("data:")] == [one.file.as_uri()]
        assert shown.said == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.violations() == []
        strong = shown.page.locator(".verdict strong")
        assert "can't be told from random" in strong.inner_text()
        assert strong.bounding_box()["y"] < 600  # on the first screen
        plots = shown.page.locator("figure svg")
        assert plots.count() == 2
        for place in range(2):
            assert plots.nth(place).bounding_box()["width"] > 250
