"""Keeps what other libraries print off the terminal."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(level: int) -> Iterator[None]:
    """Suppresses what is printed, progress bars, warnings, and log messages up to a level; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
