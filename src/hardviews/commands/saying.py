"""What is said besides results."""

import os
import sys


def say(line: str) -> None:
    """On standard error, since standard output may be JSON; the processes that fabric starts need not say it again."""
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        print(line, file=sys.stderr)
