"""The page of ``hardviews report``: reads the run folders, finds their pictures, writes it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hardviews import methods
from hardviews.errors import InputError
from hardviews.launch.global_state import global_state_restored
from hardviews.options.report import ReportOptions
from hardviews.runs.inspection import inspect
from hardviews.runs.pictures import reader, source_of
from hardviews.runs.verdict import lines, verdict_of
from hardviews.setup.data import tested_on

if TYPE_CHECKING:  # these need the extra
    from hardviews.analysis.comparison import KeyFigure
    from hardviews.analysis.run import Run

INSPECTED = 4  # arms whose features and pictures are shown: of the first run of each
NEEDED = {"matplotlib": "matplotlib", "jinja2": "jinja2", "sklearn": "scikit-learn"}


class Report(NamedTuple):
    """A written page and its key figures."""

    page: Path
    runs: "list[Run]"
    figures: "list[KeyFigure]"

    def as_dict(self) -> dict[str, Any]:
        """The page's path, and the key figures of every run by name."""
        found: dict[str, Any] = {"report": str(self.page), "runs": [str(run.folder) for run in self.runs]}
        found |= {figure.name: [value.raw for value in figure.values] for figure in self.figures}
        return found | {"measured_on": [run.measured_on() for run in self.runs]}


@global_state_restored()
def report(folders: Sequence[str | Path], options: ReportOptions) -> "Report":
    """Writes the page atomically.

    Args:
        folders: of runs; several are compared with the first.
        options: where to.

    Returns:
        The page's path, and the key figures of every run.

    Raises:
        InputError: packages are missing, no folder or one of no run is given, or there is nowhere to write to.
    """
    if not folders:
        raise InputError("runs: none given; give a run folder, or several")
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"report: {' and '.join(missing)} not installed; pip install 'hardviews[analysis]'")
    from hardviews.analysis.arms import with_arms
    from hardviews.analysis.page import MARK
    from hardviews.analysis.page import report as made
    from hardviews.analysis.run import read_all

    runs = [
        replace(
            run,
            tested_on=tested_on(*(run.config.get(name) for name in ("data", "test_data", "knn_test"))),
            verdict=verdict_lines(run),
            method=methods.written(run.config["method"]["name"]),
        )
        for run in with_arms(read_all([Path(folder) for folder in folders]))
    ]
    out = check_out(Path(options.out) if options.out else runs[0].folder / "report.html", MARK)
    sources = [source_of(run) for run in runs]
    firsts = [place for place, run in enumerate(runs) if run.arm not in {one.arm for one in runs[:place]}][:INSPECTED]
    inspected = {place: inspect(runs[place].folder, runs[place].config, sources[place]) for place in firsts}
    readers = [reader(run, source) for run, source in zip(runs, sources, strict=True)]
    page, figures = made(runs, readers, inspected)
    write(out, page)
    return Report(out, runs, figures)


def verdict_lines(run: "Run") -> list[str]:
    """The verdict on a run that has ended, also on those of versions that gave none."""
    summary = run.summary or {}
    return summary.get("verdict_says") or lines(run.config, summary, verdict_of(run.config, summary))


def check_out(out: Path, mark: str) -> Path:
    """Where to write.

    Args:
        out: the file.
        mark: text that identifies a report.

    Raises:
        InputError: it is a folder, its folder does not exist, or it is another file.
    """
    if out.is_dir():
        raise InputError(f"out: {out} is a folder; give a file, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise InputError(f"out: there is no folder {out.parent}; make it first")
    if out.exists():
        with suppress(OSError), out.open("rb") as file:
            if mark.encode() in file.read(4096):
                return out
        raise InputError(f"out: {out} is there and is no report of hardviews; give another file")
    return out


def write(out: Path, page: str) -> None:
    """Writes a temporary file and renames it."""
    beside = out.with_name(f"{out.name}.part")
    try:
        # Paths may hold bytes that are not UTF-8.
        beside.write_text(page, encoding="utf-8", errors="backslashreplace")
        beside.replace(out)
    except OSError as error:
        raise InputError(f"out: {out} can't be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
