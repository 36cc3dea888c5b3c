"""Whole runs from the command line, small ones: what they leave, how they continue, and what is said of bad input."""

import argparse
import csv
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.analysis.measured import SIZES
from hardviews.cli import main
from hardviews.training.loop import Loop
from hardviews.training.optimizers import Rates
from hardviews.training.output import checkpoint
from hardviews.training.step import Step

TINY = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --backbone.stem imagenet "
    "--image-size 32 --batch-size 16 --workers 0 --log-steps 3 --tensorboard false --knn-k 5"
)
SIMSIAM = "--method simsiam --method.dim 16 --method.predictor-dim 8"
SIMCLR = "--method simclr --method.dim 16 --method.hidden-dim 16"
BYOL = "--method byol --method.dim 16 --method.hidden-dim 16"
MOCOV3 = "--method mocov3 --method.dim 16 --method.hidden-dim 16"
SWAV = (
    "--method swav --method.dim 16 --method.hidden-dim 16 --method.prototypes 10 --method.queue 20 "
    "--method.queue-from 1 --plan.locals 2 --plan.local-size 24"
)
VICREG = "--method vicreg --method.dim 16 --method.hidden-dim 16"
LEJEPA = "--method lejepa --method.dim 16 --method.hidden-dim 16 --plan.locals 2 --plan.local-size 24"
VIT = (
    "--method dino --method.prototypes 32 --method.hidden_dim 16 --plan.locals 2 --image-size 32 --batch-size 16 "
    "--backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.embed_dim 24 --backbone.num_heads 2 "
    "--backbone.depth 2 --workers 0 --tensorboard false --data shapes:32 --epochs 1"
)
LINES = {
    "simsiam": f"{TINY} {SIMSIAM} --data shapes:32 --epochs 1",
    "simclr": f"{TINY} {SIMCLR} --data shapes:32 --epochs 1",
    "byol": f"{TINY} {BYOL} --data shapes:32 --epochs 1",
    "mocov3": f"{TINY} {MOCOV3} --data shapes:32 --epochs 1",
    "swav": f"{TINY} {SWAV} --data shapes:32 --epochs 1",
    "vicreg": f"{TINY} {VICREG} --data shapes:32 --epochs 1",
    "lejepa": f"{TINY} {LEJEPA} --data shapes:32 --epochs 1",
    "dino": VIT,
    "ibot": VIT.replace("dino", "ibot"),
    "dinov2": VIT.replace("dino", "dinov2") + " --method.gram-weight 1 --method.gram-from 1",
}


def pretrain(line: str, *more: str) -> int:
    return main(["pretrain", *TINY.split(), *line.split(), *more])


def state(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / "checkpoints" / "last.pt")


def assert_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit, all the way down."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    else:
        assert ours == theirs


def rows(run: Path) -> list[dict[str, str]]:
    """Metrics without the columns that measure time or memory."""
    with (run / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if not key.startswith(("seconds", "images", "memory"))}
            for row in csv.DictReader(file)
        ]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for index in range(20):
            noise = np.random.default_rng(index).integers(0, 256, (40, 36 + index, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / label / f"{index}.png")
    return folder


def test_what_a_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 2 --json --out {run}") == 0
    printed = json.loads(capsys.readouterr().out)  # nothing but JSON on standard output
    summary = json.loads((run / "summary.json").read_text())
    assert printed == {**summary, "run": str(run)}
    assert {
        "knn_top1",
        "knn_top1_untrained",
        "knn_top1_pixels",
        "seconds",
        "images_per_second",
        "seed",
    } <= summary.keys()
    assert summary["versions"]["torch"] == version("torch")
    assert len(summary["git_commit"] or "x" * 40) == 40
    metrics = rows(run)
    assert [row["step"] for row in metrics] == [str(step) for step in range(8)]
    for row in metrics:
        assert float(row["cost_kept"]) >= float(row["cost_mean"])
        assert all(row[name] for name in ("loss", "lr", "lr_constant", "iou_kept", "iou_random"))
    assert state(run)["step"] == 8
    assert not list(run.glob("**/*.part"))


def test_the_written_configuration_reproduces_the_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 1 --seed 3 --lr 0.1 --views 3 --out {first}") == 0
    assert main(["pretrain", "--config", str(first / "config.yaml"), "--out", str(second)]) == 0
    assert_equal(state(first), state(second))
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()


@pytest.mark.parametrize(
    "method",
    [SIMSIAM, SIMCLR, f"{SIMSIAM} --policy unexpected", MOCOV3, SWAV, VICREG, LEJEPA],
    ids=["simsiam", "simclr", "unexpected", "mocov3", "swav", "vicreg", "lejepa"],
)
def test_a_run_cut_off_in_mid_epoch_goes_on_bit_for_bit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dropout through drop-path, so that the training forward draws numbers of its own
    line = f"--data shapes:64 {method} --epochs 3 --checkpoint-steps 2 --backbone.drop_path_rate 0.3"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert pretrain(f"{line} --out {whole}") == 0

    class PowerCutError(Exception):
        pass

    save = Loop._save

    def save_and_die(self: Loop, done: int, ends_epoch: bool) -> None:
        save(self, done, ends_epoch)
        if done == 6:  # in the middle of the second epoch
            raise PowerCutError

    monkeypatch.setattr(Loop, "_save", save_and_die)
    with pytest.raises(PowerCutError):
        pretrain(f"{line} --out {cut}")
    monkeypatch.undo()
    assert state(cut)["step"] == 6
    assert pretrain(f"{line} --out {cut}") == 0
    assert_equal(state(whole), state(cut))
    assert rows(whole) == rows(cut)
    assert (whole / "evaluation.csv").read_text() == (cut / "evaluation.csv").read_text()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"--data shapes:64 {SIMSIAM} --epochs 1 --out {run}"
    assert pretrain(line) == 0
    before, seconds = state(run), json.loads((run / "summary.json").read_text())["seconds"]
    assert pretrain(line) == 0
    assert_equal(before, state(run))
    assert json.loads((run / "summary.json").read_text())["seconds"] == pytest.approx(seconds, abs=0.5)


def test_policies_do_not_matter_where_nothing_is_chosen(tmp_path: Path) -> None:
    plain, random = tmp_path / "plain", tmp_path / "hardest"
    unexpected = tmp_path / "unexpected"
    for policy, run in (("hardest", plain), ("random", random), ("unexpected", unexpected)):
        assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 1 --views 2 --policy {policy} --out {run}") == 0
    assert_equal(state(plain)["method"], state(random)["method"])  # nothing to choose
    assert_equal(state(plain)["method"], state(unexpected)["method"])
    assert all(row["cost_kept"] == "" and row["iou_kept"] == row["iou_random"] for row in rows(plain))


def test_views_are_selected_in_a_part_of_the_run_alone(tmp_path: Path) -> None:
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 0 --min-contrast 0.1"
    assert pretrain(f"{line} --select-from 0.25 --select-until 0.75 --out {tmp_path / 'run'}") == 0
    scored = [row["cost_kept"] != "" for row in rows(tmp_path / "run")]
    assert scored == [False, False, True, True, True, True, False, False]
    noted = [np.load(tmp_path / "run" / "telemetry" / f"epoch-000{epoch}.npz") for epoch in (0, 1)]
    chosen = {
        int(step): bool(is_so) for file in noted for step, is_so in zip(file["step"], file["chosen"], strict=True)
    }
    assert [chosen[step] for step in range(8)] == scored


@pytest.mark.parametrize(
    "policy",
    [
        "hardest",
        "easiest",
        "random",
        "sampled(3)",
        "lowest_iou",
        "highest_iou",
        "unexpected(0.5)",
        "learnable",
        "learnable(0.9)",
        "rescue(2)",
    ],
)
@pytest.mark.parametrize("method", sorted(LINES))
def test_every_method_with_every_policy(method: str, policy: str, tmp_path: Path) -> None:
    if policy == "learnable" and method in ("simsiam", "simclr", "swav", "vicreg", "lejepa"):
        pytest.skip("no teacher")
    run = tmp_path / "run"
    line = ["pretrain", *LINES[method].split(), "--policy", policy, "--knn-epochs", "0", "--out", str(run)]
    assert main(line) == 0
    sign = {"lowest_iou": -1, "highest_iou": 1}.get(policy, 0)
    for row in rows(run):
        assert sign * (float(row["iou_kept"]) - float(row["iou_random"])) >= 0


def test_a_folder_of_pictures_with_an_unreadable_one(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "0.png").write_bytes(b"not a picture")
    run = tmp_path / "run"
    line = f"--data {pictures} {SIMSIAM} --epochs 2 --batch-size 20 --max-unreadable 0.1 --out {run}"
    assert pretrain(line) == 0
    with (run / "unreadable.csv").open() as file:
        (listed,) = csv.DictReader(file)
    assert listed["path"].endswith("0.png")
    assert listed["reason"]
    assert "knn_top1" in json.loads((run / "summary.json").read_text())


def test_too_many_unreadable_pictures_end_the_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5):
        (pictures / "a" / f"{index}.png").write_bytes(b"not a picture")
    assert pretrain(f"--data {pictures} {SIMSIAM} --epochs 2 --knn-epochs 0 --out {tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert "unreadable" in error
    assert error.count("\n") == 1
    assert "0.png" in (tmp_path / "run" / "unreadable.csv").read_text() or "1.png" in error


def test_accumulation_is_refused_where_the_loss_compares_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 1 --grad-accumulation 2 --out {tmp_path / 'simsiam'}") == 0
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 1 --grad-accumulation 2 --out {tmp_path / 'simclr'}") == 2
    assert "compares the images" in capsys.readouterr().err
    assert not (tmp_path / "simclr").exists()


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at = Rates.at

    def broken(self: Rates, step: int, constant: bool = False) -> float:
        return float("nan") if step >= 5 else at(self, step, constant)  # in the second of three epochs

    monkeypatch.setattr(Rates, "at", broken)
    assert pretrain(f"--data shapes:64 {SIMCLR} --epochs 3 --knn-epochs 0 --out {run}") == 1
    error = capsys.readouterr().err
    assert "not finite" in error or "the loss is nan" in error
    assert str(run / "checkpoints" / "last.pt") in error
    assert error.count("\n") == 1
    assert state(run)["step"] == 4
    assert all(torch.isfinite(value).all() for value in state(run)["method"].values())


def test_a_run_that_died_before_its_first_checkpoint_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, line = tmp_path / "run", f"--data shapes:64 {SIMSIAM} --epochs 1 --log-steps 1"
    original = Step.__call__

    def die(self: Step, images: Any, step: int) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return original(self, images, step)

    monkeypatch.setattr(Step, "__call__", die)
    assert pretrain(f"{line} --out {run}") == 130
    monkeypatch.undo()
    assert len(rows(run)) == 2
    assert pretrain(f"{line} --out {run}") == 0
    assert [row["step"] for row in rows(run)] == ["0", "1", "2", "3"]
    with (run / "evaluation.csv").open() as file:
        found = [(row["step"], row["name"]) for row in csv.DictReader(file) if row["name"] not in SIZES]
    assert found == [
        *(("0", name) for name in ("knn_top1", "embedding_rank", "knn_top1_pixels", "knn_top1_chance")),  # once
        *(("4", name) for name in ("knn_top1", "embedding_rank")),
    ]


def test_a_measurement_that_was_missed_is_made_up_for(tmp_path: Path) -> None:
    run, line = tmp_path / "run", f"--data shapes:64 {SIMSIAM} --epochs 1"
    assert pretrain(f"{line} --out {run}") == 0
    whole, summary = (run / "evaluation.csv").read_text(), json.loads((run / "summary.json").read_text())
    kept = [line for line in whole.splitlines(keepends=True) if not line.startswith("4,")]
    (run / "evaluation.csv").write_text("".join(kept))
    (run / "summary.json").unlink()
    assert pretrain(f"{line} --out {run}") == 0
    assert (run / "evaluation.csv").read_text() == whole
    assert json.loads((run / "summary.json").read_text()) == summary


@pytest.mark.parametrize("batch", ["--batch-size 1", "--batch-size 3 --grad-accumulation 3"])
def test_a_forward_of_one_image_is_refused_for_bn_alone(
    batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    line = ["pretrain", *VIT.split(), "--data", "shapes:6", "--epochs", "4", "--knn-epochs", "0", *batch.split()]
    assert main([*line, "--method.bn_in_head", "true", "--out", str(run)]) == 2
    assert "leaves one image to a forward, and the BN of this network needs two" in capsys.readouterr().err
    assert not run.exists()
    assert main([*line, "--out", str(run)]) == 0
    assert "collapse?" not in capsys.readouterr().out  # one image is always like itself
    assert {row["skipped"] for row in rows(run)} == {"0"}
    assert main([*line, "--doctor", "--out", str(tmp_path / "other")]) == 0


def test_what_steps_that_choose_nothing_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every third step has costs, every other none; what is shown is of one that has."""
    run = tmp_path / "run"
    line = "pretrain --data shapes:64 --backbone.channels 8,8,8,8 --batch-size 16 --epochs 2 --knn-epochs 0 --workers 0"
    assert main([*line.split(), "--score-every", "3", "--out", str(run)]) == 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [bool(row["cost_kept"]) for row in rows] == [step % 3 == 0 for step in range(8)]
    assert all(row["iou_kept"] for row in rows)
    assert "  IoU 0." in capsys.readouterr().out


def test_out_of_memory_names_what_to_make_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("hardviews.training.step.draw", exhausted)
    assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 1 --out {tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("batch-size", "grad-accumulation", "score-chunk", "score-resolution"))
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data nowhere/at/all", "no such file or folder"),
        ("--data cifar11", "did you mean cifar1"),
        ("--data EMPTY", "empty"),
        ("--data shapes:64 --test-data UNLABELLED", "has no labels"),
        ("--data shapes:64 --method simsaim", "did you mean simsiam"),
        ("--data shapes:64 --backbone resnet19", "did you mean resnet"),
        ("--data shapes:64 --policy hardets", "did you mean hardest"),
        ("--data shapes:64 --min-contrast 2", "must be 0 to 1"),
        ("--data shapes:64 --crops joint", "none of independent"),
        (f"--data shapes:64 {SIMSIAM} --policy learnable", "SimSiam has none"),
        ("--data shapes:64 --select-from 0.5 --select-until 0.5", "an increasing range"),
        ("--recipe simclr_cifar", "did you mean simclr_cifar10"),
        ("--data shapes:64 --views 1", "is below the 2"),
        ("--data shapes:64 --views 2,2", "2 given"),
        ("--data shapes:8", "batch of 16 images is larger than the data"),
        ("--data shapes:64 --optimizer adam", "did you mean adamw"),
        ("--data shapes:64 --grad-accumulation 3", "can't be shared evenly"),
        ("--data shapes:64 --score-chunk 4", "BN"),
        ("--data shapes:64 --score-once true", "BN"),
        ("--data shapes:64 --score-once true --score-resolution 0.5", "score-once"),
        ("--data shapes:64 --score-once true --compile true", "compile"),
        ("--data shapes:64 --score-resolution 2", "score-resolution"),
        ("--data shapes:64 --score-every 0", "score-every"),
        ("--data shapes:64 --score-network teacher", "no teacher"),
        ("--data shapes:64 --score-token-keep 0.5", "no patches"),
        ("--data shapes:64 --plan.scale 0.5,2", "scale"),
        ("--data shapes:64 --std 0,1,1", "std"),
        ("--data shapes:64 --lr -1", "lr: -1.0 must be at least 0"),
        ("--data shapes:64 --decode-size -3", "decode-size"),
        ("--data shapes:64 --warmup-epochs 200", "warmup-epochs"),
        ("--data shapes:64 --knn-temperature 0", "knn-temperature"),
        ("--data shapes:64 --batch-size 1", "the BN of this network needs two"),
        ("--data shapes:64 --method.dim -3", "method.dim -3"),
        ("--data shapes:64 --method .Foo", "method '.Foo'"),
        ("--data shapes:64 --backbone resnet18.foo", "unknown backbone"),
        ("--data UNLABELLED --test-data shapes:64", "has no labels"),
        ("--data shapes:64 --accelerator cuda --devices 3", "CUDA" if not torch.cuda.is_available() else "devices"),
        ("--data shapes:64 --backbone inception_v3 --backbone.channels 8", "channels"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("UNLABELLED").mkdir()
    Image.new("RGB", (8, 8)).save("UNLABELLED/a.png")
    backbone = [] if "--backbone " in line else TINY.split()[:6]
    arguments = [*backbone, *TINY.split()[6:], *line.split(), "--out", "run"]
    assert main(["pretrain", *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert "usage" not in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "UNLABELLED"]


def test_a_run_folder_of_another_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {run}") == 0
    before = state(run)
    more = "--backbone.channels 8,8,16,32 --plan.scale 0.5,1 --method.predictor-dim 4 --knn-epochs 0"
    assert pretrain(f"--data shapes:64 {SIMSIAM} --epochs 2 {more} --out {run}") == 2
    error = capsys.readouterr().err
    assert "another configuration: --method.predictor-dim is 8 there and 4 here, --plan.scale is " in error
    assert "--backbone.channels is 8,8,16,16 there and 8,8,16,32 here, --epochs is 1 there and 2 here; give" in error
    assert_equal(before, state(run))


def test_evaluate_gives_the_runs_own_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:200 {SIMSIAM} --epochs 1 --out {run}") == 0
    summary = json.loads((run / "summary.json").read_text())
    capsys.readouterr()
    assert main(f"evaluate {run} --data shapes:200 --knn.k 5,3 --workers 0 --json".split()) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["knn_top1_k5"] == pytest.approx(summary["knn_top1"], abs=1e-6)
    assert {"knn_top1_k3", "train_images", "test_images"} <= figures.keys()


def test_evaluate_a_timm_model_and_a_timm_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import timm
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(1)
    model = timm.create_model("resnet18")
    save_file(model.state_dict(), str(weights))
    line = "--data shapes:100 --image-size 32 --workers 0 --json"
    figures = []
    for extra in ("--pretrained false", f"--checkpoint {weights}", f"--checkpoint {weights}"):
        assert main(["evaluate", "resnet18", *line.split(), *extra.split()]) == 0
        figures.append(json.loads(capsys.readouterr().out)["knn_top1"])
    assert figures[1] == figures[2]

    # Half a network, or none of it, would give a figure that means nothing.
    junk, ours = tmp_path / "junk.pth", tmp_path / "run"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, junk)
    assert pretrain(f"--data shapes:32 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {ours}") == 0
    capsys.readouterr()
    del model.layer4
    save_file(model.state_dict(), str(tmp_path / "half.safetensors"))
    half = (tmp_path / "half.safetensors", "does not fit: 90 of the backbone's 120 tensors; 30 missing: layer4.0")
    wrong = (
        half,
        (junk, "nothing in it fits"),
        (ours / "checkpoints" / "last.pt", "give its run folder"),
        (ours, "not a file"),
    )
    for file, says in wrong:
        assert main(["evaluate", "resnet18", *line.split(), "--checkpoint", str(file)]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("evaluate BROKEN --data shapes:20", "damaged"),
        ("evaluate EMPTY --data shapes:20", "damaged"),
        ("evaluate resnet18 --data shapes:20 --batch-size 0", "batch-size"),
        ("evaluate resnet18 --data shapes:20 --crop -1", "crop"),
        ("evaluate resnet18 --pretrained false --data shapes:1 --test-data OTHER", "no such file"),
        ("evaluate", "target"),
        ("evaluate resnet18", "--data"),
        ("evaluate nowhere/run --data shapes:20", "neither a run folder nor a timm model"),
        ("evaluate . --data shapes:20", "not a run folder"),
        ("evaluate resnet18 --data shapes:20 --checkpoint nowhere.pth", "not a file"),
        ("evaluate resnet18 --pretrained false --data shapes:20 --knn.k 0", "positive"),
        ("evaluat", "did you mean evaluate"),
    ],
)
def test_bad_input_to_evaluate(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("BROKEN", "a: [1"), ("EMPTY", "{}")):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(text)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def solid(folder: Path, colours: dict[str, tuple[int, int, int]]) -> Path:
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for index in range(12):
            red, green, blue = (value - index for value in colour)
            Image.new("RGB", (32, 32), (red, green, blue)).save(folder / name / f"{index}.png")
    return folder


def test_classes_are_matched_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    red, green, blue = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    train = solid(tmp_path / "train", {"a": red, "b": green, "c": blue})
    test = solid(tmp_path / "test", {"a": red, "c": blue})  # numbered 0, 1; in the training data 0, 2
    line = f"evaluate resnet18 --pretrained false --image-size 32 --workers 0 --knn.k 3 --data {train} --json"
    assert main([*line.split(), "--test-data", str(test)]) == 0
    assert json.loads(capsys.readouterr().out)["knn_top1_k3"] == 1.0
    strange = solid(tmp_path / "strange", {"a": red, "d": blue})
    assert main([*line.split(), "--test-data", str(strange)]) == 2
    assert "has a class 'd'" in capsys.readouterr().err


def test_init_from_a_run_and_from_an_official_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run starts where another's teacher ended; a checkpoint of DINO's code, with its Namespace, gives the same."""
    first = tmp_path / "first"
    assert main(["pretrain", *VIT.split(), "--knn-epochs", "1", "--out", str(first)]) == 0
    trained = json.loads((first / "summary.json").read_text())
    teacher = {
        key.removeprefix("teacher."): value
        for key, value in state(first)["method"].items()
        if key.startswith("teacher.backbone.")
    }
    official = tmp_path / "checkpoint.pth"
    student = {f"module.{key}": torch.zeros_like(value) for key, value in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(arch="vit")}, official)
    for source in (first, official):
        second = tmp_path / f"second-{source.stem}"
        capsys.readouterr()
        line = [*VIT.split(), "--knn-epochs", "1", "--init", str(source), "--out", str(second)]
        assert main(["pretrain", *line]) == 0
        assert f"init: {source}: 30 of the backbone's 30 tensors" in capsys.readouterr().err
        summary = json.loads((second / "summary.json").read_text())
        assert summary["knn_top1_untrained"] == trained["knn_top1"]
        assert summary["embedding_rank_untrained"] == pytest.approx(trained["embedding_rank"], rel=1e-5)
        assert len(json.loads((second / "init.json").read_text())["matched"]) == 30
    official.unlink()  # a run that resumes needs it no more
    assert main(["pretrain", *line]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(first), "--data", "shapes:32", "--workers", "0", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["knn_top1"] == pytest.approx(trained["knn_top1"])  # of the teacher, as in the run
    assert main(["pretrain", *VIT.split(), "--init", "nowhere", "--out", str(tmp_path / "third")]) == 2
    assert "neither a run folder, nor a file, nor a model of timm, torchvision: or hf:" in capsys.readouterr().err


def test_init_of_a_small_resnet_keeps_the_sources_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"--data shapes:32 {SIMSIAM} --epochs 1 --knn-epochs 0".split()
    for stem, kernel in (("imagenet", 7), ("cifar", 3)):
        first, second = tmp_path / stem, tmp_path / f"{stem}-on"
        assert pretrain("", *line, "--backbone.stem", stem, "--out", str(first)) == 0
        capsys.readouterr()
        assert pretrain("", *line, "--backbone.stem", "auto", "--init", str(first), "--out", str(second)) == 0
        assert "missing" not in capsys.readouterr().err
        assert state(second)["method"]["backbone.conv1.weight"].shape[-1] == kernel


def stop_after(save: Any, steps: int) -> Any:
    """Interrupts a run once it has saved the checkpoint of that step."""

    def saving(self: Loop, done: int, ends_epoch: bool) -> None:
        save(self, done, ends_epoch)
        if done == steps:
            raise KeyboardInterrupt

    return saving


@pytest.mark.parametrize("method", ["dino", "ibot", "dinov2"])
def test_what_shows_a_collapse_is_logged_and_a_run_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    line = [
        "pretrain",
        *LINES[method].split(),
        "--knn-epochs",
        "0",
        "--epochs",
        "3",
        "--backbone.drop_path_rate",
        "0.2",
    ]
    assert main([*line, "--out", str(whole)]) == 0
    assert {"teacher_entropy", "teacher_entropy_of_mean"} <= rows(whole)[0].keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_save", stop_after(Loop._save, 2))
        assert main([*line, "--out", str(cut)]) == 130
    assert main([*line, "--out", str(cut)]) == 0
    assert rows(cut) == rows(whole)
    assert_equal(state(cut), state(whole))


def test_sizes_round_to_whole_patches_and_that_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", *VIT.split(), "--image-size", "36", "--out", str(run)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("views of 36 and 17 px are rendered at 40 and 16 px: whole patches of 8") == 1
    assert main(["evaluate", str(run), "--data", "shapes:64", "--workers", "0"]) == 0
