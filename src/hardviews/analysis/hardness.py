"""Which augmentations make a view hard, as a figure."""

from collections.abc import Sequence

import numpy as np

from hardviews.analysis.curves import label, said
from hardviews.analysis.drawing import bars
from hardviews.analysis.figure import Bars, Figure, number, signed
from hardviews.analysis.importance import Importance, importance
from hardviews.analysis.run import Run
from hardviews.errors import InputError

# Of the forest, so that a page takes seconds: 20,000 rows and 200 trees explain the same to a hundredth.
# Each of up to so many runs gets all rows: 2,000 of them explain a third less, and a run's figures should not hang on
# what stands beside it.
ROWS, TREES, REPEATS, WHOLE = 6000, 60, 3, 8
EXPLAINED = 0.01  # below this part of the variance no parameter is named


def measured(runs: Sequence[Run]) -> tuple[dict[int, Importance], dict[int, str]]:
    """Importance of every run for which it can be told, and why not of the others, by their numbers."""
    found, without = {}, {}
    most = max(ROWS * WHOLE // max(len(runs), WHOLE), 1000)
    for place, run in enumerate(runs):
        try:
            if run.telemetry is None:
                raise InputError(run.without)
            found[place] = importance(run.telemetry, most=most, trees=TREES, repeats=REPEATS)
        except InputError as error:
            without[place] = str(error)
    return found, without


def figure(runs: Sequence[Run], found: dict[int, Importance]) -> Figure:
    """How much worse costs are predicted when a parameter is shuffled, of the runs for which it is known."""
    names = list(next(iter(found.values())).drop)
    names += [name for one in found.values() for name in one.drop if name not in names]
    groups = []
    for place, one in found.items():
        values = np.array([one.drop.get(name, np.nan) for name in names])
        spread = np.array([one.deviation.get(name, 0.0) for name in names])
        written = [signed(value, 3, "") for value in values]
        groups.append(Bars(label(runs, runs[place], "R²" if len(runs) == 1 else ""), values, written, place, spread))
    by_run = {runs[place].name: one for place, one in found.items()}

    def phrase(run: Run) -> str:
        one = by_run[run.name]
        first = next(iter(one.drop))
        if one.held_out < EXPLAINED or one.drop[first] < 2 * one.deviation[first]:
            return f"nothing that could be told from chance (R² {signed(one.held_out, 3, '')} on held-out pictures)"
        return (
            f"the parameters explain {number(one.held_out, True)} of the variance of costs on pictures that were held "
            f"out, and {first} matters most ({one.rows:,} combinations)"
        )

    caption = (
        "A random forest guesses from the drawn numbers alone how much more than the mean a combination of views costs "
        "the model. A bar is by how much its R² on held-out pictures falls when a parameter is shuffled; whiskers are "
        f"the standard deviation over shuffles. What was found: {said(runs, [runs[place] for place in found], phrase)}"
    )
    title, axis = "What makes views hard", "fall of R² when shuffled"
    return bars("importance", title, caption, names, groups, x_label=axis, head="parameter")
