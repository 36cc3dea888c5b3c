"""A figure of which augmentations make a view hard."""

from collections.abc import Sequence

import numpy as np

from hardviews.analysis import arms
from hardviews.analysis.curves import label, per_run
from hardviews.analysis.drawing import bars
from hardviews.analysis.figure import Bars, Figure, averaged_bars, number, signed
from hardviews.analysis.importance import Importance, importance
from hardviews.analysis.run import Run
from hardviews.errors import InputError

# Rows, trees and repeats of the forest, limited so that a page takes seconds: 20,000 rows and 200 trees explain the
# same to a hundredth. With up to WHOLE runs, each gets all ROWS: 2,000 rows would explain a third less, and a run's
# figures should not depend on the other runs.
ROWS, TREES, REPEATS, WHOLE = 6000, 60, 3, 8
EXPLAINED = 0.01  # minimum explained variance for naming a parameter


def measured(runs: Sequence[Run]) -> tuple[dict[int, Importance], dict[int, str]]:
    """By index of the run: the importance of parameters, or else the reason why it is unknown."""
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
    """How much worse costs are predicted after shuffling a parameter, for the runs where this is known."""
    names = list(next(iter(found.values())).drop)
    names += [name for one in found.values() for name in one.drop if name not in names]
    groups = []
    for place, one in found.items():
        values = np.array([one.drop.get(name, np.nan) for name in names])
        spread = np.array([one.deviation.get(name, 0.0) for name in names])
        written = [signed(value, 3, "") for value in values]
        what = label(runs, runs[place], "R²" if arms.count(runs) == 1 else "")
        groups.append(Bars(what, values, written, runs[place].arm, spread))
    groups = averaged_bars(groups, lambda value: signed(value, 3, ""))
    by_run = {runs[place].name: one for place, one in found.items()}

    def phrase(run: Run) -> str:
        one = by_run[run.name]
        first = next(iter(one.drop))
        if one.held_out < EXPLAINED or one.drop[first] < 2 * one.deviation[first]:
            return f"nothing beyond chance (R² {signed(one.held_out, 3, '')} on held-out pictures)"
        return (
            f"the parameters explain {number(one.held_out, True)} of the variance of costs on held-out pictures, "
            f"and {first} matters most ({one.rows:,} combinations)"
        )

    caption = (
        "From the drawn parameters alone, a random forest predicts how much more than the mean a combination of views "
        "costs the model. A bar shows how much its R² on held-out pictures falls if a parameter is shuffled; whiskers "
        f"are the standard deviation over shuffles. Result: {per_run(runs, [runs[place] for place in found], phrase)}"
    )
    title, axis = "What makes views hard", "fall in R² if shuffled"
    return bars("importance", title, caption, names, groups, x_label=axis, head="parameter")
