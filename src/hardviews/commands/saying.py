"""What is said besides results."""

import sys

from hardviews.commands import processes
from hardviews.wording import several

__all__ = ["say", "several"]


def say(line: str) -> None:
    """On standard error, since standard output may be JSON; of several processes the first says it."""
    if processes.number() == 0:
        print(line, file=sys.stderr)
