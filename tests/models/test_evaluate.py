"""``hardviews evaluate`` from the command line: several protocols, several data sets, what is kept and written down."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hardviews.analysis.verdict import standard_error
from hardviews.cli import main
from hardviews.evaluation import bench, features
from hardviews.models import baselines, evaluate
from hardviews.setup import data
from hardviews.training.output.run_folder import RunFolder
from tests.data.test_sources import fake_cifar
from tests.runs.test_pretrain import SIMSIAM, VIT, pretrain

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
RESNET = "resnet18 --pretrained false --image-size 32 --workers 0"


def measured(line: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["evaluate", *line.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what features are made of, as they are."""
    made: list[str] = []
    extract = features.extract

    def counting(backbone: Any, source: Any, *args: Any, **options: Any) -> Any:
        made.append(source.name)
        return extract(backbone, source, *args, **options)

    monkeypatch.setattr(bench, "extract", counting)
    return made


def test_several_protocols_share_features_which_a_run_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:40 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {run}") == 0
    made = counted(monkeypatch)
    line = f"{run} --data shapes:100 --workers 0 --linear.epochs 2"
    found = measured(f"{line} --protocol knn,linear,logistic,retrieval,clusters,rankme", capsys)
    assert len(made) == 2  # training and test images, once each
    assert {"knn_top1", "linear_top1", "logistic_top1", "retrieval_map", "clusters_nmi", "rank"} <= found.keys()
    assert measured(f"{line} --protocol linear", capsys)["linear_top1"] == found["linear_top1"]
    line = line.replace(" --linear.epochs 2", "")
    assert measured(f"{line} --protocol knn", capsys)["knn_top1"] == found["knn_top1"]
    assert len(made) == 2  # found again, by whatever asks for them
    written = [json.loads(text) for text in (run / "results.jsonl").read_text().splitlines()]
    assert len(written) == 3
    assert written[0] == found
    assert found["settings"]["linear"]["epochs"] == 2
    assert (found["step"], found["image_size"], found["crop"]) == (2, 32, 1.0)
    # Once the weights are others, so are the features.
    assert pretrain(f"--data shapes:40 {SIMSIAM} --seed 1 --epochs 1 --knn-epochs 0 --out {tmp_path / 'other'}") == 0
    measured(f"{tmp_path / 'other'} --data shapes:100 --workers 0 --cache {run / 'features'}", capsys)
    assert len(made) == 4
    measured(f"{run} --data shapes:100 --workers 0 --cache off", capsys)
    assert len(made) == 6


def test_protocols_with_test_sets_of_their_own_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{RESNET} --data shapes:40 --protocol knn,segmentation --segmentation.steps 1 --segmentation.image-size 32"
    found = measured(line, capsys)
    assert (found["test_data"], found["train_images"], found["test_images"]) == ("the test split of shapes", 40, 8)
    assert found["segmentation_test_data"] == "the test split of shapes"
    assert (found["segmentation_train_images"], found["segmentation_test_images"]) == (40, 8)
    assert main(["evaluate", *line.split()]) == 0
    shown = capsys.readouterr().out
    assert "40 training and 8 test images (the test split of shapes)\n" in shown
    assert "\n  segmentation: 40 training and 8 test images (the test split of shapes)\n" in shown


def test_linear_sees_the_last_blocks_of_a_vit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", *VIT.split(), "--knn-epochs", "0", "--out", str(run)]) == 0
    line = f"{run} --data shapes:60 --workers 0 --protocol linear --linear.epochs 2"
    widths = []
    for blocks in (0, 1, 2):
        measured(f"{line} --blocks {blocks}", capsys)
        kept = (run / "features").glob("*/tokens-*.npy")
        widths.append({int(np.load(file).shape[1]) for file in kept})
    assert widths == [set(), {48}, {72}]  # a width of 24: the class tokens, and the patches' mean


def test_transfer_to_several_data_sets_leaves_out_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    fake_cifar(tmp_path, 20)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    line = f"{RESNET} --protocol knn,linear --linear.epochs 1 --data-root {tmp_path} --on flowers102,cifar10,pets"
    (found,) = measured(line, capsys)
    assert (found["data"], found["train_images"], found["test_images"]) == ("cifar10", 100, 20)
    assert {"knn_top1", "linear_top1"} <= found.keys()
    assert main(["evaluate", *line.split()]) == 0
    shown = capsys.readouterr().out
    assert shown.count("left out: ") == 2
    assert "flowers102: torchvision finds no Flowers102" in shown
    assert [word for word in shown.split() if word in ("metric", "knn", "linear", "top1")] == [
        "metric",
        "knn",
        "linear",
        "top1",
    ]
    assert "--download true fetches it" in shown
    # One that is there and can't be measured takes nothing from the others.
    real = data.open_sources

    def unlabelled(options: Any, **more: Any) -> Any:
        source, test = real(replace(options, data="cifar10"), **more)
        if options.data == "svhn":
            source.labels = None
        return source, test

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "open_sources", unlabelled)
        assert main(["evaluate", *line.replace("flowers102,cifar10,pets", "svhn,cifar10,cifar10").split()]) == 0
    shown = capsys.readouterr().out
    assert "left out: svhn: cifar10: has no labels" in shown
    assert shown.count("│ cifar10") == 1
    assert main(["evaluate", *line.split(), "--on", "pets,dtd"]) == 2
    assert "none of pets,dtd" in capsys.readouterr().err
    assert main(["evaluate", *line.split(), "--on", "cifar10,flowers"]) == 2
    assert "did you mean flowers102" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{RESNET} --data shapes:20 --protocol knn,lineer", "did you mean linear"),
        (f"{RESNET} --data shapes:20 --protocol linear --linear.epochs 0", "epochs 0"),
        (
            f"{RESNET} --data shapes:20 --protocol knn --linear.epochs 1",
            "add linear to --protocol",
        ),
        (f"{RESNET} --data shapes:20 --on cifar10", "--data"),
        (f"{RESNET} --data shapes:20 --blocks -1", "blocks"),
    ],
)
def test_bad_input_is_one_line(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *line.split()]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_what_was_found_before_a_protocol_fails_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:40 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {run}") == 0
    line = f"evaluate {run} --data shapes:100 --workers 0 --protocol knn,clusters --clusters.count 21"
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert "knn_top1" in shown.out
    assert "21 clusters" in shown.err
    assert "knn_top1" in json.loads((run / "results.jsonl").read_text())


def test_the_whole_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pretrained, measured four ways, exported to timm and back, and embedded: all of the same weights."""
    run, exported = tmp_path / "run", tmp_path / "exported"
    assert pretrain(f"--data shapes:80 {SIMSIAM} --epochs 1 --knn-epochs 0 --out {run}") == 0
    protocols = "knn,linear,finetune --linear.epochs 2 --finetune.fractions 0.1 --finetune.epochs 1"
    found = measured(f"{run} --data shapes:200 --workers 0 --protocol {protocols}", capsys)
    assert {"knn_top1", "linear_top1", "finetune_top1_10%"} <= found.keys()
    scenes = COCO if COCO.exists() else "shapes:10"
    small = "--detection.steps 1 --detection.batch_size 2 --detection.min_size 64 --detection.width 16"
    precision = measured(f"{run} --data {scenes} --workers 0 --protocol detection {small}", capsys)
    assert 0 <= precision["box_ap"] <= precision["box_ap50"] < 1
    for target in (run, exported):
        if target == exported:
            assert main(f"export {run} --format timm --out {exported}".split()) == 0
        place = f"local-dir:{exported}" if target == exported else run
        line = f"embed {place} --data shapes:20 --crop 1 --workers 0 --out {tmp_path / target.name}.parquet"
        assert main(line.split()) == 0
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("run", "exported")]
    ours, theirs = (np.stack(table["embedding"].to_numpy()) for table in tables)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert tables[0]["label"].to_pylist() == [row % 10 for row in range(20)]
    again = f"local-dir:{exported} --data shapes:200 --workers 0 --crop 1"
    assert measured(again, capsys)["knn_top1"] == pytest.approx(found["knn_top1"])


def test_an_accuracy_is_shown_beside_chance_raw_pixels_and_the_untrained_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as the run measured before its first step, of the same test images."""
    run, line = tmp_path / "run", "--data shapes:60 --workers 0"
    assert pretrain(f"{line} {SIMSIAM} --epochs 1 --knn-epochs 1 --knn-k 20 --precision 32-true --out {run}") == 0
    before = {name: values[0][1] for name, values in RunFolder(run).evaluations().items()}
    capsys.readouterr()
    asked = f"{run} {line} --precision 32-true --protocol knn,linear --linear.epochs 1"
    assert main(["evaluate", *asked.split()]) == 0
    said = capsys.readouterr().out.splitlines()
    shown = {entry[2:21].strip(): entry[21:].strip() for entry in said[1:]}
    assert shown["knn of raw pixels"] == f"{before['knn_top1_pixels']:.2%}"
    assert shown["knn untrained"] == f"{before['knn_top1']:.2%}"
    assert shown["chance"] == f"{before['knn_top1_chance']:.2%}"
    written = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    for name in ("knn_top1", "linear_top1"):
        error = standard_error(written[name], written["test_images"])
        assert shown[name] == f"{written[name]:.2%} (standard error {100 * error:.1f})"
    assert "error" not in shown["linear_rate"]
    found = measured(asked, capsys)  # a script gets them where it asks
    assert found["beside"].keys() == {"errors", "chance"}
    assert measured(f"{asked} --baselines on", capsys)["beside"]["untrained"] == before["knn_top1"]


def test_many_images_are_not_encoded_twice_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "SMALL", 40)
    assert main(["evaluate", *f"{RESNET} --data shapes:40".split()]) == 0
    said = capsys.readouterr().out
    assert "raw pixels and the untrained backbone are not measured, of 48 images; --baselines on does so\n" in said
    assert "knn of raw pixels" not in said
    assert main(["evaluate", *f"{RESNET} --data shapes:40 --baselines on".split()]) == 0
    said = capsys.readouterr().out
    assert "knn of raw pixels" in said
    assert "untrained" not in said  # as which it is measured already
