"""``hardviews.pretrain`` is the verb, and leaves the process as it was."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import hardviews
from hardviews.cli import main
from hardviews.launch import launcher
from hardviews.methods import SimSiam
from hardviews.training.output import checkpoint
from tests.api.small import LINE, OPTIONS, Pictures


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(run / "checkpoints" / "last.pt")["method"]
    return found


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert all(torch.equal(value, weights(theirs)[name]) for name, value in weights(ours).items())
    mine, other = (hardviews.PretrainedRun(run).summary for run in (ours, theirs))
    assert {key: value for key, value in mine.items() if "second" not in key} == {
        key: value for key, value in other.items() if "second" not in key
    }


def test_a_call_is_the_verb(tmp_path: Path) -> None:
    run = hardviews.pretrain("shapes:48", epochs=2, seed=3, out=tmp_path / "call", **OPTIONS)
    assert main(f"pretrain --data shapes:48 --epochs 2 --seed 3 --out {tmp_path}/verb {LINE}".split()) == 0
    assert_same_run(run.folder, tmp_path / "verb")
    assert (run.folder / "config.yaml").read_text() == (tmp_path / "verb/config.yaml").read_text()
    assert run.metrics["loss"].shape == (6,)
    table = pandas.DataFrame(run.metrics)
    pandas.testing.assert_frame_equal(table, pandas.read_csv(run.metrics_file), check_dtype=False)
    assert 0 <= run.summary["knn_top1"] <= 1


def test_classes_modules_and_objects(tmp_path: Path) -> None:
    """A class in place of a name, a module in place of a backbone, objects in place of data."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    labelled = [(image, index % 2) for index, image in enumerate(Pictures().pixels)]
    options = OPTIONS | {"method": {"name": SimSiam, "dim": 16, "predictor_dim": 8}, "backbone": network}
    run = hardviews.pretrain(labelled, test_data=labelled[:20], epochs=1, out=tmp_path / "run", **options)
    assert run.summary["method"] == "simsiam"
    assert run.summary["data"] == "object:list"
    assert run.summary["knn_test_images"] == 20
    with pytest.raises(hardviews.InputError, match="object:list: was given as an object, from Python"):
        hardviews.pretrain(config=run.folder / "config.yaml", out=tmp_path / "again")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    model = hardviews.load(run, module=network)
    assert not torch.equal(next(model.backbone.parameters()), before["0.weight"])
    assert model.embed([labelled[0][0]]).shape == (1, 8)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = OPTIONS | {"knn_epochs": 0, "in_memory": "off", "epochs": 2}
    pictures = Pictures()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    hardviews.pretrain(pictures, out=tmp_path / "whole", **options)
    pictures.interrupts_at = 3 * pictures.reads // 4  # the first half is read before the first step
    pictures.reads = 0
    with pytest.raises(KeyboardInterrupt, match=r"the same call with out=.* resumes") as interrupt:
        hardviews.pretrain(pictures, out=tmp_path / "cut", **options)
    assert interrupt.value.__context__ is None  # which would hold on to the run's memory
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}
    with pytest.raises(hardviews.InputError, match="the run has not ended"):
        _ = hardviews.PretrainedRun(tmp_path / "cut").summary
    for read in ("summary", "metrics"):
        with pytest.raises(hardviews.InputError, match="nowhere is not a run folder: it has no config"):
            getattr(hardviews.PretrainedRun(Path("nowhere")), read)
    done = len(hardviews.PretrainedRun(tmp_path / "cut").metrics["step"])
    assert 0 < done < 8
    assert hardviews.pretrain(pictures, out=tmp_path / "cut", **options).summary["steps"] == 8
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_other_pictures_or_another_module_do_not_resume(tmp_path: Path) -> None:
    """Of a finished run either, and a model's weights go into no other module."""

    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    pictures, narrow = list(Pictures().pixels), network(8)
    options = OPTIONS | {"knn_epochs": 0, "epochs": 1, "out": tmp_path / "run"}

    def call(data: Any, backbone: nn.Module) -> hardviews.PretrainedRun:
        return hardviews.pretrain(data, **options | {"backbone": backbone})

    run = call(pictures, backbone=narrow)
    before = weights(run.folder)
    others = [pictures[0], 255 - pictures[1], *pictures[2:]]
    wrong: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: call(others, backbone=narrow), "began with 64 images and finds others of that number"),
        (lambda: call(pictures[:40], backbone=narrow), "began with 64 images and finds 40"),
        (lambda: call(pictures, backbone=network(16)), r"backbone.0.weight is \[8, 3, 3, 3\] there and \[16, 3, 3, 3"),
        (lambda: call(pictures, backbone=nn.Sequential(*narrow, nn.Linear(8, 8))), "3.weight is missing there and"),
        (lambda: hardviews.load(run, module=network(16)), r"does not fit the module: 0.weight is \[8, 3, 3, 3\] there"),
    )
    for act, says in wrong:
        with pytest.raises(hardviews.InputError, match=says) as error:
            act()
        assert "\n" not in str(error.value)
    assert call(pictures, backbone=narrow).summary["steps"] == 4
    assert all(torch.equal(value, before[name]) for name, value in weights(run.folder).items())


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, doubles])
def test_what_the_caller_has_set_changes_no_run(context: Callable[[], Any], tmp_path: Path) -> None:
    options = OPTIONS | {"knn_epochs": 0}
    plain = hardviews.pretrain("shapes:32", epochs=1, out=tmp_path / "plain", **options)
    with context():
        run = hardviews.pretrain("shapes:32", epochs=1, out=tmp_path / "run", **options)
    assert_same_run(run.folder, plain.folder)


def test_another_signal_reaches_whom_it_is_meant_for(tmp_path: Path) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    pictures = Pictures()

    class Stopping(Pictures):
        def __getitem__(self, index: int) -> Any:
            if pictures.reads == 136:
                signal.raise_signal(signal.SIGUSR1)
            return pictures[index]

    try:
        with pytest.raises(hardviews.StoppedError, match="SIGUSR1, saved after"):
            hardviews.pretrain(
                Stopping(), epochs=2, out=tmp_path / "run", in_memory="off", **OPTIONS | {"knn_epochs": 0}
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]


def network_of_nothing() -> None: ...


def settings() -> dict[str, Any]:
    """What a call must leave as it is."""
    return {
        "generators": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # type: ignore[index]  # noqa: NPY002
        "threads": torch.get_num_threads(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
        "matmul": torch.get_float32_matmul_precision(),
        "loggers": {
            name: (logger.level, logger.disabled, tuple(logger.handlers))
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger)
        },
        "logging": (logging.root.level, logging.root.manager.disable),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "modules": (list(sys.path), sys.excepthook, sys.stdout, sys.stderr),
        "warnings": list(warnings.filters),
        "group": torch.distributed.is_initialized(),
        "grad": (torch.is_grad_enabled(), torch.get_default_dtype()),
        "compile": torch._dynamo.config.recompile_limit if hasattr(torch._dynamo.config, "recompile_limit") else None,
    }


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_call_leaves_the_process_as_it_was(deterministic: bool, tmp_path: Path) -> None:
    def calls(out: Path) -> None:
        run = hardviews.pretrain("shapes:32", epochs=1, out=out / "run", deterministic=deterministic, **OPTIONS)
        model = hardviews.load(run)
        model.embed(list(Pictures().pixels[:2]))
        hardviews.evaluate(model, train="shapes:32", protocols=["knn", "linear"], linear={"epochs": 1}, workers=0)
        hardviews.embed(model, "shapes:32", out / "features.parquet", workers=0)
        hardviews.export(model, out / "exported", "timm")
        hardviews.report(run)

    calls(tmp_path / "first")  # imports set loggers up, once
    random.seed(5)
    logging.getLogger("lightning_fabric").setLevel(logging.DEBUG)
    torch.use_deterministic_algorithms(not deterministic, warn_only=True)
    try:
        before = settings()
        calls(tmp_path / "second")
        after = settings()
    finally:
        torch.use_deterministic_algorithms(False)
    created = after["loggers"].keys() - before["loggers"].keys()
    after["loggers"] = {name: value for name, value in after["loggers"].items() if name not in created}
    for name, value in after.items():
        assert value == before[name], name


def test_a_process_group_of_the_callers_stays(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        hardviews.pretrain("shapes:32", epochs=1, out=tmp_path / "run", **OPTIONS)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_memory_of_a_finished_run_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its method, its optimizer's state and its data."""
    from hardviews.training.loop import Loop

    held: list[weakref.ref[Any]] = []
    run_loop = Loop.run

    def run(self: Loop) -> None:
        held.extend(weakref.ref(one) for one in (self, self.step.method, self.step.optimizer, self.loader.source))
        run_loop(self)

    monkeypatch.setattr(Loop, "run", run)
    labelled = [(image, index % 2) for index, image in enumerate(Pictures().pixels[:48])]  # each is left out in turn
    result = hardviews.pretrain(labelled, epochs=1, out=tmp_path / "run", **OPTIONS)
    gc.collect()
    assert result.summary["steps"] == 3
    assert len(held) == 4
    assert [one() for one in held] == [None] * 4


def test_in_a_thread(tmp_path: Path) -> None:
    """Where there are no signal handlers to be set."""
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(
            hardviews.pretrain("shapes:32", epochs=1, out=tmp_path / "run", **OPTIONS).summary["steps"]
        )
    )
    thread.start()
    thread.join()
    assert found == [2]


def test_several_processes(tmp_path: Path) -> None:
    options = OPTIONS | {"knn_epochs": 0, "accelerator": "cpu"}
    run = hardviews.pretrain("shapes:32", epochs=1, devices=2, out=tmp_path / "run", **options)
    assert run.summary["steps"] == 2
    with pytest.raises(hardviews.InputError, match="several processes need data by name"):
        hardviews.pretrain(Pictures(), devices=2, **options)


@pytest.mark.parametrize(
    ("code", "raised", "says", "signals"),
    [
        (128 + signal.SIGINT, KeyboardInterrupt, "the same call with out=", []),
        (128 + signal.SIGUSR1, hardviews.StoppedError, "the same call with out=", [signal.SIGUSR1]),
        (1, hardviews.RunError, "exit code 1", []),
    ],
)
def test_how_several_processes_end(
    code: int, raised: type[BaseException], says: str, signals: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(launcher, "launch", lambda *_: code)
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    try:
        with pytest.raises(raised, match=says):
            hardviews.pretrain("shapes:32", epochs=1, devices=2, out=tmp_path, **OPTIONS)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == signals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epoks": 3}, "unknown option epoks; did you mean epochs?"),
        ({"method": {"name": "simclr", "dimm": 3}}, "unknown option method.dimm; did you mean method.dim?"),
        ({"method.dimm": 3}, "unknown option method.dimm; did you mean method.dim?"),
        ({"method": "simcrl"}, "unknown method 'simcrl'; did you mean simclr?"),
        ({"epochs": "many"}, "epochs: 'many' is not a whole number"),
        ({"knn_temperature": -1}, "knn_temperature: -1.0 must be above 0"),
        ({"lr": object()}, "lr: it takes no value of type object"),
        ({"json": True}, "unknown option json; it is one of the command line alone"),
        ({"data": 3}, "data: int gives no images by number; give a map-style Dataset or a list of images"),
        ({"data": Pictures(), "batch_size": "auto"}, "batch_size: auto needs data by name; give a number"),
        ({"views": 1}, "keep"),
        ({"backbone": nn.Linear}, "backbone: got the class Linear; give an nn.Module, an object"),
        ({"backbone": hardviews.BackboneOptions(module=nn.Linear)}, "backbone.module: got the class Linear"),
        ({"backbone": network_of_nothing}, "backbone: it takes no value of type function"),
        ({"plan": {"transform_input": "crop"}}, "plan.transform_input: give plan.transform too"),
        ({"score_every": 0, "batch_size": 32}, "score_every 0 must be at least 1, and score_chunk 0 at least 0"),
        (
            {"method": "simclr", "batch_size": 8, "grad_accumulation": 2},
            "give grad_accumulation 1 and a smaller batch_",
        ),
    ],
)
def test_wrong_arguments_are_one_line(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(hardviews.InputError) as error:
        hardviews.pretrain(**dict[str, Any]({"data": "shapes:32", "out": tmp_path / "run"} | options))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)
    assert not (tmp_path / "run").exists()


def dimmed(crop: Tensor) -> Tensor:
    return crop / 2


def test_functions_as_transforms_and_runs_to_extend(tmp_path: Path) -> None:
    run = hardviews.pretrain("shapes:32", plan={"transform": dimmed}, epochs=1, out=tmp_path / "a", **OPTIONS)
    assert "dimmed" in (run.folder / "config.yaml").read_text()
    plain = hardviews.pretrain("shapes:32", epochs=1, out=tmp_path / "b", **OPTIONS)
    assert plain.metrics["loss"].tolist() != run.metrics["loss"].tolist()
    more = hardviews.pretrain(extend=plain, epochs=2, out=tmp_path / "c", quiet=True)
    assert len(more.metrics["loss"]) == 2
    with pytest.raises(hardviews.InputError, match=r"plan\.transform by name"):
        hardviews.pretrain("shapes:32", plan={"transform": dimmed}, batch_size="auto", out=tmp_path / "d")
