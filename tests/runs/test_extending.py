"""Runs that extend another: they continue from it as it would have continued itself, and say where they come from."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hardviews.cli import main
from hardviews.errors import InputError
from hardviews.options.extension import settings_to_extend
from hardviews.setup.extension import Extension, plot
from hardviews.training.optimizers import Rates
from hardviews.training.output.run_folder import RunFolder
from tests.runs.cut_off import cut_off_after
from tests.runs.test_earlier_version import FIXTURE
from tests.runs.test_pretrain import SIMSIAM, VIT, assert_equal, pretrain, rows, state

DATA = f"--data shapes:64 {SIMSIAM} --knn-epochs 0 --telemetry 0"
CONSTANT = "--lr 0.05 --min-lr 0.003125"  # a batch of 16 takes a sixteenth of the rate


def files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def rates(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of four steps, by half a cosine."""
    run = tmp_path_factory.mktemp("extended") / "run"
    assert pretrain(f"{DATA} --epochs 2 --out {run}") == 0
    return run


def extend(run: Path, out: Path, line: str) -> int:
    return main(["pretrain", "--extend", str(run), "--out", str(out), *line.split()])


def test_at_a_constant_rate_it_is_the_longer_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, long, both = tmp_path / "short", tmp_path / "long", tmp_path / "both"
    assert pretrain(f"{DATA} {CONSTANT} --epochs 2 --out {short}") == 0
    assert pretrain(f"{DATA} {CONSTANT} --epochs 4 --out {long}") == 0
    before = files(short)
    assert extend(short, both, "--epochs 4") == 0
    assert "learning rate 0.00313 throughout" in capsys.readouterr().out
    assert_equal(state(both), state(long))
    assert rows(both) == rows(long)[8:]
    assert files(short) == before


def test_it_says_where_it_comes_from(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert extend(finished, run, "--epochs 4 --lr 0.1") == 0
    said = capsys.readouterr().out
    assert f"extends {finished}, 2 epochs (step 8); learning rate 0 there, up to 0.00625 at epoch 2.25, then" in said
    assert "changed: --epochs is 2 there and 4 here, --lr is 0.05 there and 0.1 here" in said
    config = (run / "config.yaml").read_text()
    assert f"extend: {finished}" in config
    assert "predictor_dim: 8" in config  # as that run has it
    record, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("extension", "summary"))
    assert (record["step"], record["run_step"], record["schedule"]) == (8, 8, "restart")
    assert (summary["extends"], summary["extends_epochs"], summary["epochs"]) == (str(finished), 2, 4)
    assert rates(run)[:2] == pytest.approx([0, 0.00625])  # of 8 steps one warms up
    assert 0 < rates(run)[-1] < 0.001


def test_a_stretched_schedule_is_that_of_the_longer_run(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert extend(finished, run, "--epochs 4 --extend-schedule stretch") == 0
    whole = Rates(0.003125, 0.0, 16, 0)
    assert rates(run) == pytest.approx([whole.at(step) for step in range(8, 16)], rel=1e-8)


def test_it_resumes_bit_for_bit_without_the_run_it_extends(finished: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(finished, tmp_path / "first"))
    line = "--epochs 4 --checkpoint-steps 3 --scoring exact --weight-decay 0.01"
    assert extend(first, tmp_path / "whole", line) == 0
    with cut_off_after(9):
        extend(first, tmp_path / "cut", line)
    assert state(tmp_path / "cut")["step"] == 9
    shutil.rmtree(first)
    assert extend(first, tmp_path / "cut", line) == 0
    assert_equal(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_run_that_extends_is_extended_from_the_rate_it_had(finished: Path, tmp_path: Path) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    assert extend(finished, second, "--epochs 4 --min-lr 0.001") == 0
    assert extend(second, third, "--epochs 5 --warmup-epochs 0.5") == 0
    record = json.loads((third / "extension.json").read_text())
    assert (record["run"], record["step"], record["lr"]) == (str(second), 16, 0.001)
    assert rates(third)[0] == 0.001


def test_another_batch_size_counts_its_own_steps(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert extend(finished, run, "--epochs 3 --batch-size 32 --data shapes:96") == 0
    assert "trained on other images: 64 there, 96 here" in capsys.readouterr().out
    assert [row["step"] for row in rows(run)] == ["6", "7", "8"]
    assert [row["epoch"] for row in rows(run)] == ["2", "2", "2"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--epochs 2", "has 2 epochs already; give --epochs, of both runs together, above that"),
        ("--epochs 4 --backbone resnet50", "--backbone is resnet18 there and resnet50 here; that can't change: give"),
        ("--epochs 4 --backbone.layers 1,1,1,2", "--backbone.layers is 1,1,1,1 there and 1,1,1,2 here; that can't"),
        ("--epochs 4 --optimizer adamw", "--optimizer is sgd there and adamw here; that can't change"),
        ("--epochs 4 --method simclr", "--method is simsiam there and simclr here; that can't change: leave it out"),
        ("--epochs 4 --method.dim 8", "--method.dim is 16 there and 8 here; its weights don't fit: projector.0.weight"),
        ("--epochs 4 --init resnet18", "init: the weights are those of"),
        ("--epochs 4 --recipe demo", "recipe: not with --extend"),
        ("--epochs 4 --extend NOWHERE", "extend: NOWHERE is no run folder: it has no config.yaml"),
    ],
)
def test_what_can_not_go_on_is_one_line(
    line: str, says: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extend(finished, tmp_path / "run", line) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_run_itself_stays_as_it_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extend(finished, finished, "--epochs 4") == 2
    assert "is the run that is to be extended, and stays as it is; give another folder" in capsys.readouterr().err
    assert pretrain(f"{DATA} --epochs 4 --out {finished}") == 2
    assert f"or continue from its weights by --extend {finished} and another --out" in capsys.readouterr().err


def test_arms_of_a_comparison_begin_anew(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--extend", str(finished), "--epochs", "4"]) == 2
    assert "extend: arms begin anew, at step 0; give --init RUN" in capsys.readouterr().err


def test_a_run_of_version_0_1_that_stopped_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(FIXTURE)
    run = tmp_path / "run"
    assert extend(FIXTURE, run, "--epochs 3 --telemetry 0 --knn-epochs 0") == 0
    assert "1 epoch (step 4); learning rate 0.00156 there, up to 0.00313 at epoch 1.25" in capsys.readouterr().out
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(4, 12)]
    assert files(FIXTURE) == before
    other = ["--batch-size", "32"]  # whose epochs end where those of 16 do
    assert main(["pretrain", "--extend", str(FIXTURE), "--epochs", "2", *other, "--out", str(tmp_path / "b")]) == 0


@pytest.mark.endure
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_and_what_they_shared_out(strategy: str, tmp_path: Path) -> None:
    line = f"{VIT.replace('shapes:32', 'shapes:64')} --accelerator cpu --precision 32-true --knn-epochs 0 --telemetry 0"
    first, second, alone = tmp_path / "first", tmp_path / "second", tmp_path / "alone"

    def started(*arguments: str) -> object:
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", *arguments])
        return ended.value.code

    assert started(*line.split(), "--devices", "2", "--strategy", strategy, "--out", str(first)) == 0
    assert started("--extend", str(first), "--epochs", "2", "--out", str(second)) == 0
    assert len(list((second / "checkpoints" / "parts").glob("*"))) == (2 if strategy == "fsdp" else 0)
    assert extend(first, alone, "--epochs 2 --devices 1 --strategy ddp") == 0
    for run in (second, alone):
        assert state(run)["step"] == 8
        assert rows(run)[0]["step"] == "4"
    losses = [[float(row["loss"]) for row in rows(run)] for run in (second, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_within_an_epoch_only_where_its_steps_are_the_same() -> None:
    stopped = Extension(RunFolder(Path("run")), {}, 6, 4, 1.0, "", {})
    assert stopped.begin(4) == 6
    with pytest.raises(
        InputError, match="stopped within epoch 2, and with another --batch-size or other data it can continue"
    ):
        stopped.begin(8)


def test_a_plot_of_rates() -> None:
    assert plot([8, 4, 0], [1, 8]) == "█▄ |▁█"
    assert plot([0], [0]) == " | "


def test_settings_that_follow_from_given_ones_are_open_again(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    for folder, extend in ((run, ""), (out, f"extend: {run}\n")):
        folder.mkdir()
        (folder / "config.yaml").write_text(f"{extend}method: {{name: dino}}\nviews: [2, 2, 16]\nepoch_images: 9\n")
    assert settings_to_extend(str(run), None, [])["views"] == [2, 2, 16]
    assert "views" not in settings_to_extend(str(run), None, ["plan.locals"])
    assert "epoch_images" not in settings_to_extend(str(run), None, ["data"])
    for name in (str(run), f"{run}/"):  # the run that has begun resumes with its own
        assert settings_to_extend(name, str(out), [])["extend"] == str(run)


def test_what_a_policy_learned_from_other_views_is_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(f"{DATA} --views 4 --policy unexpected --epochs 1 --out {run}") == 0
    assert extend(run, tmp_path / "more", "--epochs 2 --views 3") == 0
