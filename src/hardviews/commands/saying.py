"""What is said besides results."""

import sys

from hardviews.commands import processes


def say(line: str) -> None:
    """On standard error, since standard output may be JSON; of several processes the first says it."""
    if processes.number() == 0:
        print(line, file=sys.stderr)


def several(count: int, what: str) -> str:
    """A number and its noun: ``1 step``, ``1,000 steps``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
