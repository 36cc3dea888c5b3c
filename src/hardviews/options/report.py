"""The settings of ``hardviews report``."""

from dataclasses import dataclass


@dataclass
class ReportOptions:
    """Writes one self-contained page of what one or several runs did: learning curves, time, and which views were kept.

    Args:
        out: the page, an HTML file; by default report.html in the first run's folder. It replaces an earlier report,
            but no other file.
    """

    out: str | None = None
