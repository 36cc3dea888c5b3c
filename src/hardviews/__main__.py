"""``python -m hardviews`` is ``hardviews``."""

import sys

from hardviews.cli import main

if __name__ == "__main__":  # not where a process of the loader imports it again
    sys.exit(main())
