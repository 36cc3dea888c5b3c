"""The scripts behind EVIDENCE.md: their command lines are understood."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from hardviews.commands import compare, pretrain

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("evidence", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("name", "seeds"), [("simsiam", 5), ("simclr", 3), ("imagenette", 3), ("ibot", 3), ("dino", 3)]
)
def test_command_lines_are_those_of_the_plan(evidence: ModuleType, name: str, seeds: int) -> None:
    assert name in evidence.COMPARISONS
    verb, *argv = evidence.command(name, Path("packs"), Path("out"))
    request, _, _ = compare.parse(argv)
    assert verb == "compare"
    assert [arm.name for arm in request.arms] == ["random", "hardest", "cheap"]
    assert request.baseline == "random"
    assert request.seeds == tuple(range(seeds))
    random, hardest, cheap = (arm.options for arm in request.arms)
    assert (random.scoring, hardest.scoring) == ("exact", "exact")
    assert (cheap.score_resolution, cheap.score_network) != (hardest.score_resolution, hardest.score_network)
    assert random.views == hardest.views == cheap.views


def test_rates_are_tried_before_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal_time = imported("equal_time", monkeypatch)
    runs = [pretrain.parse(argv[1:])[0] for argv in equal_time.commands("rate", equal_time.names(), tmp_path)]
    rates = {name: [run.lr for run in runs if run.method["name"] == name] for name in equal_time.METHODS}
    factors = (1, 2, 4, 8, 16)
    first = {"simsiam": 0.12, "simclr": 0.002, "dino": 0.002}
    assert rates == {name: pytest.approx([rate * f for f in factors]) for name, rate in first.items()}
    monkeypatch.setattr(equal_time, "RATES", {})
    with pytest.raises(SystemExit, match="the stage before it has not been decided yet"):
        list(equal_time.commands("flat", equal_time.names(), tmp_path))
    monkeypatch.setattr(equal_time, "RATES", {"simclr": 8})
    assert "--lr 0.016 " in equal_time.settings("simclr-imagenette")


@pytest.mark.parametrize("stage", ["choose", "confirm", "curve"])
def test_stages_at_equal_time(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal_time = imported("equal_time", monkeypatch)
    names = equal_time.names()
    monkeypatch.setattr(equal_time, "BUDGETS", dict.fromkeys(equal_time.METHODS, 60))
    monkeypatch.setattr(equal_time, "CHOSEN", dict.fromkeys(equal_time.METHODS, ("strong-crops", "hardest")))
    found = [compare.parse(argv[1:])[0] for argv in equal_time.commands(stage, names, tmp_path)]
    assert len(found) == {"choose": 3, "confirm": 6, "curve": 12}[stage]
    for request in found:
        assert request.baseline == "random"
        assert not request.options.equal_epochs
        assert set(request.seeds) == {"choose": {100, 101}, "confirm": set(range(5)), "curve": {0, 1, 2}}[stage]
        hardest = next(arm.options for arm in request.arms if arm.name == "hardest")
        assert (hardest.policy, hardest.scoring) == ("hardest", "exact")
        if hardest.method["name"] == "dino":
            assert hardest.plan["local_size"] == (hardest.image_size or 32) // 2


def test_runs_double_until_that_brings_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal_time = imported("equal_time", monkeypatch)
    accuracy = {60: 0.4, 120: 0.405, 240: 0.5}
    lengths = []
    for argv in equal_time.flat(["--data", "x"], tmp_path):
        epochs = int(argv[argv.index("--epochs") + 1])
        lengths.append(epochs)
        run = Path(argv[argv.index("--out") + 1])
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({"knn_top1": accuracy[epochs]}))
    assert lengths == [60, 60, 120, 120]


def test_plain_runs_are_tabled_by_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal_time = imported("equal_time", monkeypatch)
    for name, accuracy in (("times-1", 0.3), ("times-16", 0.4)):
        run = tmp_path / "rate" / "dino-cifar" / name
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({"knn_top1": accuracy}))
    assert "| dino | 30.0 |  |  |  | 40.0 |" in equal_time.results(tmp_path)


def test_a_stage_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal_time = imported("equal_time", monkeypatch)
    monkeypatch.setattr(equal_time, "CHOSEN", {})
    with pytest.raises(SystemExit, match="the stage before it has not been decided yet"):
        next(equal_time.commands("confirm", equal_time.names(), tmp_path))
