"""What a run with smaller views first will take: the parts of its steps in proportion."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hardviews.commands.pretrain import parse
from hardviews.comparison import plan as planning
from hardviews.data.sources.shapes import Shapes
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing import step_time
from hardviews.probing.step_time import Timing, phases_of, selecting_part
from hardviews.probing.steps import lone_fabric, probe_step
from hardviews.setup.defaults import resolve_defaults
from hardviews.training.scoring.early_exit import EarlyExit
from tests.comparison.test_compare import request
from tests.runs.test_pretrain import LINES


def options_of(*more: str) -> PretrainOptions:
    return parse([*LINES["simsiam"].split(), "--accelerator", "cpu", "--image-size", "64", *more])[0]


def test_an_epoch_is_the_mean_over_the_run() -> None:
    """Each kind of step waits for its data itself."""
    small = {"half": (0.75, 1.0)}
    beside = Timing({"half": 4.0, "plain": 4.0}, 1.5, 10, beside=True, small=small)
    assert beside.epoch("half") == 10 * (0.25 * 4.0 + 0.75 * 1.5)
    assert beside.epoch("plain") == 40.0
    assert Timing({"half": 4.0}, 1.5, 10, beside=False, small=small).epoch("half") == 10 * (0.25 * 5.5 + 0.75 * 2.5)


@pytest.mark.parametrize("resolution", [0.5, 0.3, 1.0])
@pytest.mark.parametrize(("selects_from", "until"), [(0.0, 1.0), (0.2, 0.7), (0.8, 0.9), (0.0, 0.1)])
@pytest.mark.parametrize("full_from", [0.75, 0.1, 1.0])
def test_parts_of_a_run_by_counting_its_steps(
    resolution: float, selects_from: float, until: float, full_from: float
) -> None:
    options = PretrainOptions(
        train_resolution=resolution, full_resolution_from=full_from, select_from=selects_from, select_until=until
    )
    steps = [(step + 0.5) / 1000 for step in range(1000)]
    for size, (begin, end) in phases_of(options).items():
        own = [part for part in steps if (resolution if part < full_from else 1.0) == size]
        assert end - begin == pytest.approx(len(own) / 1000)
        if own:
            chosen = sum(selects_from <= part < until for part in own) / len(own)
            assert selecting_part(options, begin, end) == pytest.approx(chosen)


def test_an_early_exit_is_timed_as_it_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its first steps pass the whole backbone."""
    ready, exiting = list[bool](), EarlyExit.exiting

    def watched(self: EarlyExit) -> Any:
        ready.append(self.ready)
        return exiting(self)

    monkeypatch.setattr(EarlyExit, "exiting", watched)
    step_time.time_arms({"early": options_of("--scoring", "exact", "--score-depth", "0.5")}, 2)
    assert ready == [False, True, True, True]


def test_steps_so_slow_that_timing_ends_early_are_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "LONGEST", 0.0)
    arms = {"some": options_of("--score-every", "2", "--select-from", "0.2")}
    assert step_time.time_arms(arms, 8).steps["some"] > 0


@pytest.mark.parametrize("every", [1, 2])
def test_arms_are_timed_at_both_sizes(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 4 s, a small one 1 s, and choosing 2 s more; 8 s in the steps that warm up."""
    taken: list[tuple[Any, int]] = []
    measured: list[torch.device] = []

    def seconds(do: Any, device: torch.device) -> float:
        measured.append(device)
        do()
        step, number = taken[-1]
        chooses = number % every == 0 and (step.selecting is None or number in step.selecting)
        warm_up = 8.0 * (number < step_time.WARM_UP)
        return warm_up + (4.0 if step.resolution.at(number) == 1 else 1.0) + 2.0 * chooses

    monkeypatch.setattr(step_time, "_take", lambda step, _, number: taken.append((step, number)))
    monkeypatch.setattr(step_time, "_seconds", seconds)
    more = ("--knn-epochs", "0", "--score-every", str(every))
    half = ("--train-resolution", "0.5", "--full-resolution-from", "0.8")
    arms = {
        "full": options_of(*more),
        "half": options_of(*more, *half),
        "half, later": options_of(*more, *half, "--select-from", "0.6"),
    }
    found = step_time.time_arms(arms, 4)
    choosing = 2.0 / every
    assert found.steps == pytest.approx(dict.fromkeys(arms, 4.0 + choosing))
    assert list(found.small) == ["half", "half, later"]
    assert found.small["half"] == pytest.approx((0.8, 1.0 + choosing))
    assert found.small["half, later"] == pytest.approx((0.8, 1.0 + choosing / 4))  # a fifth of the run of four fifths
    assert found.besides["half"].loading - found.besides["full"].loading == pytest.approx(16.0, abs=2.1)


def test_epochs_of_equal_time_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        planning, "timed", lambda *_: Timing({"random": 4.0, "half": 4.4}, 0.0, 4, small={"half": (0.75, 1.2)})
    )
    wanted = request("--epochs", "20", "--policies", "random", "--arm", "half: --train-resolution 0.5")
    plan = planning.make_plan(wanted, tmp_path / "out")
    arm = plan["arms"]["half"]
    assert arm["seconds_per_epoch"] == pytest.approx(4 * (0.25 * 4.4 + 0.75 * 1.2))
    assert arm["equal_time_epochs"] == round(20 * 4.0 / 2.0)
    jobs = list(planning.jobs_of(wanted, plan, tmp_path))
    assert planning.estimate(wanted, plan, jobs)["steps"] == pytest.approx(3 * 4 * (20 * 4.0 + (20 + 40) * 2.0))


def test_memory_is_that_of_full_size() -> None:
    options, method = resolve_defaults(options_of("--train-resolution", "0.5"), Shapes(count=10))
    step = probe_step(options, method, lone_fabric(options), steps_per_epoch=10)
    assert step.resolution.at(0) == 1.0
    assert math.isclose(options.train_resolution, 0.5)
