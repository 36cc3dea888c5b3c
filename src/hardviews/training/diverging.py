"""Limits the number of consecutive skipped steps."""

from collections.abc import Callable, Iterable, Mapping

from hardviews.training.output.saving import DivergedError
from hardviews.wording import several

HALVINGS = 16  # The gradient scaler halves its scale from 2^16 to 1, so this many consecutive overflows are harmless.


class DivergenceWatch:
    """Counts consecutive skipped steps.

    Args:
        most: maximum consecutive non-finite steps before the run goes back to its last checkpoint.
        say: prints a line for each skipped step.
    """

    def __init__(self, most: int, say: Callable[[str], None]) -> None:
        self.skipped = 0  # consecutive steps
        self._most, self._say, self._overflows = most, say, 0

    def note(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Takes rows of metrics in order of steps.

        Raises:
            DivergedError: too many consecutive steps were skipped.
        """
        for row in rows:
            overflowed = bool(row.get("overflowed"))
            self.skipped = self.skipped + 1 if row["skipped"] else 0
            self._overflows = self._overflows + overflowed if row["skipped"] else 0
            if overflowed:
                self._say(f"step {row['step']}: skipped, a gradient overflowed in fp16; the loss scale is halved")
            elif row["skipped"]:
                self._say(f"step {row['step']}: skipped, the loss, a cost or a gradient is not finite")
            bad = self.skipped - self._overflows
            if bad >= self._most or self._overflows >= self._most + HALVINGS:
                in_a_row = several(self.skipped, "step in a row was", "steps in a row were")
                self.skipped = self._overflows = 0
                raise DivergedError(f"step {row['step']}: {in_a_row} not finite")
