"""The page of ``hardviews report``: reads the run folders, finds their pictures, writes it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.launch.global_state import global_state_restored
from hardviews.options.report import ReportOptions
from hardviews.runs.verdict import lines, verdict_of
from hardviews.setup.data import opened, tested_on
from hardviews.telemetry.shown import picture, shown_channels
from hardviews.views.pixels import Pixels
from hardviews.wording import several

if TYPE_CHECKING:  # these need the extra
    from hardviews.analysis.comparison import KeyFigure
    from hardviews.analysis.page import Reader
    from hardviews.analysis.pictures import Original
    from hardviews.analysis.run import Run

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
    from hardviews.analysis.page import MARK
    from hardviews.analysis.page import report as made
    from hardviews.analysis.run import read_all

    runs = [
        replace(
            run,
            tested_on=tested_on(*(run.config.get(name) for name in ("data", "test_data", "knn_test"))),
            verdict=verdict_lines(run),
        )
        for run in read_all([Path(folder) for folder in folders])
    ]
    out = check_out(Path(options.out) if options.out else runs[0].folder / "report.html", MARK)
    page, figures = made(runs, [reader(run) for run in runs])
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


def reader(run: "Run") -> "Reader | str":
    """A function that reads pictures of the run's data set; or, as text, why there is none."""
    from hardviews.analysis.pictures import LARGER, Original

    data, config = run.config.get("data"), run.config
    form = Pixels.from_config(config)
    shown = shown_channels(form, config.get("show_channels"))
    if run.telemetry is None or not data:
        return "there is nothing to show of it"
    options = SimpleNamespace(
        data_root=config.get("data_root", "data"),
        download=False,
        image_column=config.get("image_column", "image"),
        label_column=config.get("label_column", "label"),
        tile=config.get("tile", 0),
        frames=config.get("frames", "first"),
    )
    try:
        source = opened(options, str(data), "train")
    except InputError as error:
        return str(error)
    except Exception as error:  # a table or a set that was damaged since; the report works without pictures
        return f"{data}: {' '.join(str(error).split())[:160]}"
    if len(source) != run.images:
        return f"{data} holds {several(len(source), 'picture')} now, and the run had {run.images:,}"

    def read(index: int) -> "Original | None":
        from PIL import Image

        try:
            stored = source.read(index, Bounds(side=LARGER, form=form)).permute(2, 0, 1)
            pixels = Image.fromarray(picture(stored, form, shown).permute(1, 2, 0).contiguous().numpy())
        except (UnreadableImage, OSError):
            return None
        return Original(index, Path(source.path(index)).name, class_of(source, index), pixels)

    return read


def class_of(source: ImageSource, index: int) -> str | None:
    """The name of a picture's class, or its number."""
    if source.labels is None:
        return None
    label = int(source.labels[index])
    return source.class_names[label] if source.class_names else f"class {label}"
