"""A comparison from the command line: the arms share everything but the choice, whatever fails or is interrupted."""

import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from hardviews.cli import main
from hardviews.commands import compare as verb
from hardviews.comparison import compare as comparing
from hardviews.comparison import plan as planning
from hardviews.comparison.jobs import Job
from hardviews.comparison.request import Request
from hardviews.errors import InputError, RunError
from hardviews.probing import step_time
from hardviews.probing.evaluation_time import measurements
from hardviews.probing.step_time import Besides, Timing
from hardviews.telemetry import reading as telemetry
from hardviews.training.monitor import Monitor
from tests.analysis.reading import check

TINY = shlex.split(
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --batch-size 16 --workers 0 "
    "--tensorboard false --knn-epochs 0 --method.dim 16 --method.predictor-dim 8 --data shapes:64 --protocol knn"
)


@dataclass
class Made:
    """A comparison that was interrupted in the middle of its first run, and made to its end by the same command.

    Args:
        folder: its folder.
        interrupted: the exit code of the first command, and what it said.
        left: whether its run had ended, and what its log said.
        code: the exit code of the second.
    """

    folder: Path
    interrupted: tuple[int, str]
    left: tuple[bool, str]
    code: int

    @property
    def found(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "comparison.json").read_text()))

    def run(self, arm: str) -> Path:
        return self.folder / "runs" / f"{arm}-24-epochs-seed-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of three arms, of which one can't be trained."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    argv = ["compare", *TINY, "--epochs", "24", "--seeds", "1", "--arm", "broken: --lr 1e30 --max-nonfinite-steps 2"]
    argv += ["--timed-steps", "2", "--log-steps", "1", "--equal-time", "false", "--out", str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "hardviews.cli", *argv], stderr=subprocess.PIPE, text=True)
    run = folder / "runs" / "random-24-epochs-seed-0"
    deadline = time.monotonic() + 240
    while not (run / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    left = (run / "summary.json").exists(), run.with_name(run.name + ".log").read_text()
    with run.with_name(run.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    return Made(folder, (process.returncode, said), left, main(argv))


def test_an_interrupted_one_goes_on(made: Made) -> None:
    """SIGINT in the middle of a run: its process has ended when the comparison has, and the same command finishes."""
    code, said = made.interrupted
    assert code == 130
    assert "the same command resumes where it stopped" in said
    finished, log = made.left
    assert not finished
    assert "saved" in log  # it was asked once, and let continue to where it could
    run = made.run("random")
    assert "resuming at step" in run.with_name(run.name + ".log").read_text()
    steps = [line.partition(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(96)]


def test_a_failing_arm_loses_no_other(made: Made) -> None:
    found = made.found
    assert made.code == 1
    assert len(found["failed"]) == 1
    assert "broken" in found["failed"][0]
    assert "not finite" in found["failed"][0]
    assert [row["arm"] for row in found["rows"]] == ["random", "hardest"]
    text = (made.folder / "comparison.md").read_text()
    assert "| hardest | 24 | 1 |" in text
    assert "- Not finished: broken, 24 epochs: 0 of 1 run done." in text
    assert f"- Failed: {found['failed'][0]}" in text
    page = check(Path(found["page"]).read_text(encoding="utf-8"))
    assert found["page"] == str(made.folder / "comparison.html")
    assert found["failed"][0] in [one.text for one in page.all("li")]
    assert "1 run failed" in page.missing()


def test_figures_are_those_of_the_runs(made: Made) -> None:
    found = made.found
    for row in found["rows"]:
        run = made.run(row["arm"])
        [result] = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
        assert row["figures"] == {"knn_top1": {"runs": 1, "mean": result["knn_top1"], "deviation": None}}
        assert row["seconds"]["mean"] == json.loads((run / "summary.json").read_text())["seconds"]
    assert found["measured_on"] == {"the test split of shapes (12 images)": ["knn_top1"]}
    assert (
        "- Measured on the test split of shapes (12 images): knn_top1.\n" in (made.folder / "comparison.md").read_text()
    )
    plain, hard = found["rows"]
    difference = hard["figures"]["knn_top1"]["mean"] - plain["figures"]["knn_top1"]["mean"]
    assert hard["differences"]["knn_top1"] == {"seeds": 1, "mean": pytest.approx(difference), "half_width": None}


def test_arms_see_the_same_images_and_candidates(made: Made) -> None:
    plain, hard = (telemetry.load(made.run(arm)) for arm in ("random", "hardest"))
    for name in ("step", "image", "box", "jitter", "flip"):
        assert (plain[name] == hard[name]).all(), name
    assert (plain["kept"] != hard["kept"]).any()
    assert np.isfinite(hard["cost"]).all()
    assert np.isnan(plain["cost"]).all()  # nothing was scored for it


def test_what_is_done_is_not_done_again(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is a run that another process holds; the plan need not be timed again."""
    folder, before = made.folder, made.found
    argv = ["compare", *TINY, "--epochs", "24", "--seeds", "1", "--log-steps", "1", "--out", str(folder), "--json"]
    argv += ["--equal-time", "false"]
    stamps = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("*") if file.suffix != ".lock"}
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == before["rows"]
    assert printed.err.count("(there already)") == 2
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}
    # One more seed, whose first run is somebody else's.
    held = folder / "runs" / "random-24-epochs-seed-1.lock"
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*argv, "--seeds", "2"]) == 0
    printed = capsys.readouterr()
    assert "random, 24 epochs, seed 1: another process is at it" in printed.err
    rows = json.loads(printed.out)["rows"]
    assert [row["seconds"]["runs"] for row in rows] == [1, 2]
    assert rows[1]["differences"]["knn_top1"]["seeds"] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--epochs", "3"], "of random, --epochs is 24 there and 3 here"),
        (["--baseline", "hardest"], "the baseline is random"),
        (["--views", "6"], "--views is not given there and 6 here"),
    ],
)
def test_another_comparison_is_refused(
    made: Made, change: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*TINY, "--epochs", "24", "--seeds", "1", "--log-steps", "1", "--out", str(made.folder), *change]
    assert main(["compare", *argv]) == 2
    assert says in capsys.readouterr().err


def request(*argv: str) -> Request:
    return verb.parse([*TINY, *argv])[0]


def test_equal_time_follows_from_the_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"random": 1.0, "hardest": 1.6, "cheap": 1.25, "same": 1.01}
    asked: list[list[str]] = []

    def timed(arms: dict[str, Any], request: Request) -> Timing:
        asked.append(list(arms))
        return Timing({name: 2 * seconds[name] if len(asked) > 1 else seconds[name] for name in arms}, 0.0, 4)

    monkeypatch.setattr(planning, "timed", timed)
    wanted = request("--epochs", "20", "--seeds", "3,5", "--arm", "cheap: --score-every 2")
    plan = planning.make_plan(wanted, tmp_path / "out")
    jobs = list(planning.jobs_of(wanted, plan, tmp_path))
    assert [(job.arm, job.epochs, job.seed) for job in jobs[:5]] == [
        ("random", 20, 3), ("hardest", 20, 3), ("cheap", 20, 3), ("hardest", 12, 3), ("cheap", 16, 3)
    ]  # fmt: skip
    assert [job.seed for job in jobs] == [3] * 5 + [5] * 5
    short = replace(wanted, options=replace(wanted.options, equal_epochs=False))
    assert [(job.arm, job.epochs) for job in planning.jobs_of(short, plan, tmp_path)] == [
        ("random", 20), ("hardest", 12), ("cheap", 16)
    ] * 2  # fmt: skip
    lines = list(planning.plan_lines(short, plan, jobs, tmp_path))
    assert lines[1:3] == [
        "  random: 20 epochs of 4 s, the baseline",
        "  hardest: 12 epochs of 6.4 s, for equal time",
    ]
    assert jobs[3].steps == 48
    # An arm that comes later is timed beside the baseline, on a machine that is now half as fast.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / planning.PLAN).write_text(json.dumps(plan))
    more = request("--epochs", "20", "--arm", "cheap: --score-every 2", "--arm", "same: --views 5 --policy random")
    again = planning.make_plan(more, tmp_path / "out")
    assert asked == [["random", "hardest", "cheap"], ["random", "same"]]
    assert again["arms"]["same"]["seconds_per_epoch"] == pytest.approx(4 * 1.01)
    assert again["arms"]["same"]["equal_time_epochs"] == 20  # so it has no runs of its own
    for some in (more, replace(more, options=replace(more.options, equal_epochs=False))):
        assert {job.epochs for job in planning.jobs_of(some, again, tmp_path) if job.arm == "same"} == {20}


def test_who_was_first_has_settled_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are started at once both time their steps, and find other times; their runs must be as long."""
    found = iter([1.5, 2.0])

    def timed(arms: dict[str, Any], request: Request) -> Timing:
        return Timing({name: 1.0 if name == "random" else next(found) for name in arms}, 0.0, 4)

    monkeypatch.setattr(planning, "timed", timed)
    wanted, folder = request("--epochs", "12"), tmp_path / "out"
    first, second = planning.make_plan(wanted, folder), planning.make_plan(wanted, folder)
    assert [plan["arms"]["hardest"]["equal_time_epochs"] for plan in (first, second)] == [8, 6]
    assert comparing.write_plan(wanted, folder, first) == first
    assert comparing.write_plan(wanted, folder, second) == first
    assert planning.read_plan(folder) == first
    (folder / planning.PLAN).unlink()  # one that was stopped before it had a plan
    assert planning.read_plan(folder) == {}


def test_a_folder_that_can_not_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written to"):
        comparing.write_plan(request("--epochs", "1"), tmp_path / "file" / "out", {})


def test_reading_counts_where_no_worker_does_it_beside() -> None:
    assert Timing({"random": 2.0}, 1.5, 10, beside=True).epoch("random") == 20
    assert Timing({"random": 2.0}, 1.5, 10, beside=False).epoch("random") == 35


BESIDES = {
    "random": Besides(start=10.0, loading=1.0, measurement=5.0, pixels=2.0, evaluation=30.0),
    "hardest": Besides(start=10.0, loading=3.0, measurement=5.0, pixels=2.0, evaluation=30.0, unknown=("finetune",)),
}


def test_an_estimate_has_all_that_a_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of times that are given here, seeds 0 and 1, and 25 epochs that are measured before, after 10, 20 and at the
    end."""
    monkeypatch.setattr(planning, "timed", lambda *_: Timing({"random": 1.0, "hardest": 2.0}, 0.0, 4, True, BESIDES))
    argv = [*TINY, "--epochs", "25", "--seeds", "2", "--knn-epochs", "10", "--equal-time", "false"]
    wanted, _, _ = verb.parse(argv)
    plan = planning.make_plan(wanted, tmp_path / "out")
    jobs = list(planning.jobs_of(wanted, plan, tmp_path / "out" / "runs"))
    per_run = {"measuring on the way": 4 * 5.0 + 2.0, "measuring at the end": 30.0}
    assert planning.estimate(wanted, plan, jobs) == {
        "steps": 2 * 25 * 4 * (1.0 + 2.0), "start-up": 2 * (2 * 10 + 1.0 + 2 * 10 + 3.0),
        **{name: 4 * seconds for name, seconds in per_run.items()},
    }  # fmt: skip
    assert main(["compare", *argv, "--out", str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["estimate"]["steps"] == 600.0
    assert "4 runs to train: about 15 min here (steps 10 min, start-up 88 s, measuring on the way 88 s, " in printed.err
    # One run is trained and measured, another is trained.
    for job, files in zip(jobs, ((".json",), ()), strict=False):
        job.folder.mkdir(parents=True)
        (job.folder / "summary.json").write_text("{}")
        for ending in files:
            measured = {"command": job.measuring, "figures": {}}
            job.folder.with_name(job.folder.name + ending).write_text(json.dumps(measured))
    left = planning.estimate(wanted, plan, jobs)
    assert left["measuring at the end"] == 3 * 30.0
    assert left["start-up"] == 10.0 + (2 * 10 + 1.0) + (2 * 10 + 3.0)
    assert left["measuring on the way"] == 2 * 22.0


def test_what_can_not_be_told_beforehand_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request("--epochs", "5", "--protocol", "knn,finetune")
    known = {name: replace(one, unknown=("finetune",)) for name, one in BESIDES.items()}
    monkeypatch.setattr(planning, "timed", lambda *_: Timing({"random": 1.0, "hardest": 2.0}, 0.0, 4, True, known))
    plan = planning.make_plan(wanted, tmp_path / "out")
    jobs = list(planning.jobs_of(wanted, plan, tmp_path / "runs"))
    assert list(planning.plan_lines(wanted, plan, jobs, tmp_path))[-1].endswith(", besides what finetune will take")
    for arm in plan["arms"].values():  # as versions before this one left it
        del arm["besides"]
    assert list(planning.plan_lines(wanted, plan, jobs, tmp_path))[-1].endswith(" here, besides start-up and measuring")


def test_what_runs_take_besides_steps_is_timed(made: Made) -> None:
    plan = json.loads((made.folder / "plan.json").read_text())
    for arm in plan["arms"].values():
        besides = arm["besides"]
        assert besides["start"] > 0.1  # of a process
        assert besides["evaluation"] > 0
        assert besides["measurement"] == 0  # TINY asks for none
        assert besides["unknown"] == []


@pytest.mark.parametrize(
    ("more", "measured", "evaluated", "unknown"),
    [
        (["--knn-epochs", "1"], True, True, ()),
        (["--knn-epochs", "1", "--protocol", "knn,linear,rankme", "--linear.epochs", "1"], True, True, ("rankme",)),
        (["--labelled", "shapes:60", "--protocol", "finetune"], False, False, ("finetune",)),
        (["--protocol", "linear", "--linear.augment", "true"], False, False, ("linear",)),
    ],
)
def test_measuring_is_timed_in_small(
    more: list[str], measured: bool, evaluated: bool, unknown: tuple[str, ...]
) -> None:
    wanted = request("--epochs", "2", *more)
    arms = {arm.name: arm.options for arm in wanted.arms}
    found = step_time.time_arms(arms, 1, wanted.evaluation, wanted.settings)
    assert list(found.besides) == ["random", "hardest"]
    for besides in found.besides.values():
        assert (besides.measurement > 0, besides.pixels > 0) == (measured, measured)
        assert (besides.evaluation > 0) == evaluated
        assert besides.unknown == unknown


@pytest.mark.parametrize(("epochs", "every"), [(1, 10), (10, 10), (25, 10), (20, 10), (3, 1), (5, 0)])
def test_measurements_are_counted_as_they_are_made(epochs: int, every: int) -> None:
    """As ``Monitor`` says that they are due, of 4 steps an epoch."""
    monitor = cast(Monitor, SimpleNamespace(every=every, epochs=epochs, steps_per_epoch=4))
    assert measurements(epochs, every) == sum(Monitor.due(monitor, done) for done in range(4 * epochs + 1))


def test_a_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "timed", lambda arms, *_: Timing(dict.fromkeys(arms, 1.0), 0.0, 4))
    assert main(["compare", *TINY, "--epochs", "4", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 arms, seeds 0, 1, 2" in said
    assert "random: 4 epochs of" in said
    assert "runs to train: about" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--policies", "hardest"], "one arm (hardest) has nothing to be compared with"),
        (["--policies", "hardest,hardset"], "did you mean hardest"),
        (["--arm", "hardest: --views 6"], "hardest is there twice"),
        (["--arm", "--views 6"], "give NAME: OPTIONS"),
        (["--arm", "../x: --views 6"], "give NAME: OPTIONS"),
        (["--arm", "long: --epochs 7"], "epochs is 7 in long and"),
        (["--arm", "a: --viwes 6"], "arm a: unknown option --viwes"),
        (["--baseline", "randm"], "did you mean random"),
        (["--seeds", "0"], "seeds: must be at least 1"),
        (["--equal-epochs", "false", "--equal-time", "false"], "leaves nothing to compare"),
        (["--seed", "3"], "give --seeds"),
        (["--policy", "hardest"], "give --policies"),
        (["--protocol", "knnn"], "did you mean knn"),
        (["--sedes", "3"], "unknown option --sedes"),
    ],
)
def test_wrong_command_lines(argv: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        planning.make_plan(request(*argv), Path("never"))
    assert says in str(caught.value)


def test_unlabelled_data_needs_something_to_measure_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert main(["compare", "--data", str(tmp_path), "--batch-size", "2", "--epochs", "1"]) == 2
    said = capsys.readouterr().err
    assert "has no labels to measure by: its images lie in no folders" in said
    assert "or give --labelled DATA" in said
    wanted, _, _ = verb.parse(["--data", str(tmp_path), "--labelled", "shapes:50", "--epochs", "1"])
    planning.open_labelled(wanted)
    assert list(wanted.measuring[:2]) == ["--data", "shapes:50"]


def test_a_process_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    job = Job("a", 0, 1, 1, tmp_path / "runs" / "a", ("--data", "nowhere"), ())
    with pytest.raises(RunError) as caught:
        job.carry_out(lambda _: None)
    assert str(caught.value).startswith("a: unknown data set 'nowhere'")
    assert str(job.log) in str(caught.value)
