"""``hardviews.compare`` and ``hardviews.report``: several runs side by side."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardviews.api.arguments import argv_of, joined, with_call_errors, with_options_of
from hardviews.api.run import PretrainedRun
from hardviews.commands.compare import parse
from hardviews.errors import InputError
from hardviews.options.comparison import CompareOptions
from hardviews.options.pretraining import PretrainOptions
from hardviews.options.report import ReportOptions

if TYPE_CHECKING:
    from hardviews.comparison.compare import Comparison
    from hardviews.runs.report import Report


@with_options_of(CompareOptions, PretrainOptions, skip=("arm", "protocol", "policy", "seed"))
@with_call_errors
def compare(
    data: str | Path,
    *,
    policies: str | Sequence[str] = ("random", "hardest"),
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    protocols: str | Sequence[str] = ("knn", "linear"),
    quiet: bool = False,
    **options: Any,
) -> "Comparison":
    """Trains with several policies, measures all alike, and says whether they differ, as ``hardviews compare`` does.

    Every run is made by a process of its own, so data and backbones are given by name; progress of the runs is shown
    here. It resumes where it was stopped.

    Args:
        data: a path or a name.
        policies: of ``hardviews.policies.names()``, an arm each.
        arms: further arms by name, with the options of ``pretrain`` that only they have:
            ``{"cheap": {"score_resolution": 0.5}}``.
        protocols: what is measured of every run at the end.
        quiet: print neither the plan nor a line for every run.
        options: the options below, which all arms share; and a protocol's own by its name, ``linear={"epochs": 10}``.

    Returns:
        ``rows``, the figures of every arm with their differences; ``sentences``, what follows from them; ``folder``;
        ``page``, a page for a browser.
        Runs that failed are in ``failed``: the same call tries them again.

    Raises:
        InputError: before anything is trained.

    Example:
        >>> import hardviews
        >>> hardviews.compare("shapes:64", policies=["hardest"])
        Traceback (most recent call last):
        hardviews.errors.InputError: policies: one arm (hardest) has nothing to be compared with; name another
    """
    from rich.console import Console

    from hardviews.comparison import compare as comparison
    from hardviews.console import printer

    if not isinstance(data, str | Path):
        raise InputError(f"data: got {type(data).__name__}; every run opens its data, so give a path or a name")
    own = {"data": data, "policies": joined("policies", policies), "protocol": joined("protocols", protocols)}
    argv = argv_of(own | options)
    arms = {} if arms is None else arms
    if not isinstance(arms, Mapping) or not all(isinstance(settings, Mapping) for settings in arms.values()):
        raise InputError("arms: give settings by name, such as {'cheap': {'score_resolution': 0.5}}")
    for name, settings in arms.items():
        argv += ["--arm", f"{name}: {shlex.join(argv_of(settings))}"]
    request, _, _ = parse(argv)
    return comparison.compare(request, printer(Console(quiet=quiet)))


@with_options_of(ReportOptions)
@with_call_errors
def report(
    runs: "Sequence[str | Path | PretrainedRun] | str | Path | PretrainedRun", out: str | Path | None = None
) -> "Report":
    """Writes a page of what runs did, as ``hardviews report`` does. It needs ``pip install 'hardviews[analysis]'``.

    Args:
        runs: run folders, of which several are compared with the first.
        out: the page; by default ``report.html`` in the first run's folder.

    Returns:
        ``page``, its path; ``runs``; ``figures``, the key figures on it.

    Raises:
        InputError: packages are missing, a folder is no run's, or there is nowhere to write to.

    Example:
        >>> import hardviews, tempfile
        >>> made = hardviews.report("tests/fixtures/run-0.1", tempfile.mkdtemp() + "/report.html")
        >>> made.page.name
        'report.html'
    """
    from hardviews.runs.report import report as write

    several: Any = [runs] if isinstance(runs, str | Path | PretrainedRun) else runs
    if not isinstance(several, Iterable) or not all(isinstance(run, str | Path | PretrainedRun) for run in several):
        raise InputError(f"runs: got {type(runs).__name__}; give a list of runs or of their folders")
    return write([Path(run) for run in several], ReportOptions(None if out is None else str(out)))
