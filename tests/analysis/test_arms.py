"""Runs that differ in their seed only are one arm; names are short and unique."""

from pathlib import Path
from typing import Any

import numpy as np

from hardviews.analysis.arms import LONGEST, shortened, with_arms
from hardviews.analysis.drawing import lines
from hardviews.analysis.figure import Bars, Line, averaged, averaged_bars
from hardviews.analysis.run import Run


def run(name: str, **config: Any) -> Run:
    config = {"method": {"name": "simclr"}, "policy": "random", "seed": 0, "epochs": 5} | config
    return Run(Path(name), name, config, {}, {}, [], None, {}, None)


def names(*runs: Run) -> list[tuple[int, str, str]]:
    return [(one.arm, one.arm_name, one.name) for one in with_arms(runs)]


def test_seeds_are_one_arm() -> None:
    found = names(run("a"), run("b", seed=1), run("c", policy="hardest"), run("d", policy="hardest", seed=1, out="x"))
    assert found == [
        (0, "random", "random, seed 0"),
        (0, "random", "random, seed 1"),
        (1, "hardest", "hardest, seed 0"),
        (1, "hardest", "hardest, seed 1"),
    ]


def test_names_say_what_differs() -> None:
    found = names(run("a", epochs=5), run("b", epochs=3, policy="hardest"), run("c", method={"name": "simclr", "t": 2}))
    assert len({name for _, _, name in found}) == 3
    assert names(run("alone")) == [(0, "alone", "alone")]


def test_runs_with_one_seed_keep_their_folders_names() -> None:
    assert [name for _, _, name in names(run("x/r"), run("y/r"))] == ["x/r", "y/r"]


def test_where_much_differs_folders_name_the_arms() -> None:
    other = run("f" * 80, policy="hardest", epochs=1, lr=2, batch_size=3)
    found = names(run("short"), other)
    assert [arm for _, arm, _ in found] == ["short", shortened("f" * 80)]
    assert len(found[1][1]) == LONGEST


def test_lines_of_one_label_become_mean_and_range() -> None:
    x = np.array([1.0, 2.0, 3.0])
    some = [Line("a", x, np.array([1.0, 2.0, 3.0])), Line("a", x[:2], np.array([3.0, np.nan])), Line("b", x, x, 1)]
    mean, other = averaged(some)
    assert other is some[2]
    assert mean.low is not None
    assert mean.high is not None
    assert mean.y.tolist() == [2, 2, 3]
    assert mean.low.tolist() == [1, 2, 3]
    assert mean.high.tolist() == [3, 2, 3]


def test_bars_of_one_label_become_their_mean() -> None:
    one, two = (Bars("a", np.array([v]), [""], 0, np.array([e])) for v, e in ((1.0, 3.0), (3.0, 4.0)))
    (bar,) = averaged_bars([one, two], "{:.1f}".format)
    assert bar.values.tolist() == [2]
    assert bar.written == ["2.0"]
    assert bar.spread is not None
    assert bar.spread.tolist() == [2.5]  # sqrt(3² + 4²) / 2


def ticks(svg: str) -> list[float]:
    """Numbers of the value axis, which stand before the label above it."""
    import re

    found = re.findall(r'id="[^"]*ytick_\d+".*?<text[^>]*>([^<]+)</text>', svg, re.DOTALL)
    return [float(one.replace("−", "-").rstrip("%")) for one in found]


def test_no_axis_makes_noise_look_like_a_signal() -> None:
    """A share starts at 0; a difference shows 0 and its noise; a loss that hardly moves is flat."""
    x, noise = np.arange(50.0), np.random.default_rng(0).normal(0, 0.001, 50)
    share = ticks(lines("a", "", "", [Line("a", x, 0.4 + noise)], percent=True, zero=True).svg)
    assert min(share) == 0
    assert max(share) >= 40
    gap = ticks(lines("b", "", "", [Line("b", x, 0.1 + noise)], noise=0.3).svg)
    assert min(gap) < 0 < max(gap)
    assert max(gap) >= 0.2
    flat = ticks(lines("c", "", "", [Line("c", x, 5 + noise)]).svg)
    assert max(flat) - min(flat) > 0.5
