"""``hardviews report``: what runs did, as one page."""

from dataclasses import dataclass

from hardviews.commands.parsing import Parser, summary


@dataclass
class ReportOptions:
    """Writes one self-contained page of what one or several runs did: learning curves, time, and which views were kept.

    Args:
        out: the page, an HTML file; by default report.html in the first run's folder. A report that is there is
            replaced, another file is not.
    """

    out: str | None = None


def run(argv: list[str]) -> None:
    """Parses a command line and writes the page."""
    parser = Parser(
        prog="hardviews report",
        usage="hardviews report RUN [RUN ...] [--out report.html]",
        description=f"{summary(ReportOptions)} Several runs are laid over each other and compared with the first. "
        "It needs pip install 'hardviews[analysis]'.",
    )
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="a run folder, finished or not")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_options(ReportOptions)
    given = parser.parse(argv).as_dict()
    runs, as_json = given.pop("runs"), given.pop("json")
    # Only here, so that help and wrong options need not wait for torch.
    from hardviews.commands.reporting import report

    report(runs, ReportOptions(**given), as_json)
