"""``hardviews report``: a page about runs."""

import json

from hardviews.commands.parsing import Parser, summary
from hardviews.console import say
from hardviews.options.report import ReportOptions

SHOWN = ("knn_top1", "iou_kept", "seconds")  # figures printed with the page's path


def run(argv: list[str]) -> None:
    """Parses a command line and writes the page."""
    parser = Parser(
        prog="hardviews report",
        usage="hardviews report RUN [RUN ...] [--out report.html] [--watch]",
        description=f"{summary(ReportOptions)} Several runs are laid over each other and compared with the first. "
        "It needs pip install 'hardviews[analysis]'.",
    )
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="a run folder, finished or not")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show the page at an address of this machine, and make it anew while the run goes on",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of --watch; 0, the default, takes a free one")
    parser.add_options(ReportOptions)
    given = parser.parse(argv).as_dict()
    runs, as_json, watched, port = (given.pop(name) for name in ("runs", "json", "watch", "port"))
    # Only here, so that help and wrong options need not wait for torch.
    from hardviews.data.reading.decode import printable
    from hardviews.runs.report import report

    options = ReportOptions(**given)
    if watched:
        from hardviews.runs.watch import watch

        watch(runs, lambda: report(runs, options).page, port, say)
        return
    made = report(runs, options)
    if as_json:
        print(json.dumps(made.as_dict(), indent=2))
        return
    print(printable(str(made.page)))
    for figure in made.figures:
        if figure.name in SHOWN:
            print(f"{figure.title}: {' | '.join(value.text for value in figure.values)}; {figure.note}")
