"""What is measured of a run on the way: of which images, and that it is said."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning_fabric import Fabric

from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.evaluation.features import Features, Preprocessing, extract
from hardviews.evaluation.protocols.knn import knn_accuracy
from hardviews.evaluation.rank import effective_rank
from hardviews.evaluation.splits import held_out
from hardviews.methods.simsiam import SimSiam
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup.monitoring import BANK, create_evaluate, figures, resolve_knn
from hardviews.training.distributed.meeting import Meeting
from hardviews.views.streams import stream
from tests.methods.tiny import TinyBackbone
from tests.runs.test_pretrain import SIMSIAM, pretrain


@pytest.mark.parametrize("with_test", [False, True])
def test_a_bank_that_is_not_cut_gives_the_figures_of_all_images(with_test: bool) -> None:
    """Bit for bit those of versions that had no other."""
    torch.manual_seed(0)
    source, test, backbone = Shapes("train", 300), Shapes("test", 60) if with_test else None, TinyBackbone()
    options = resolve_knn(PretrainOptions(image_size=32, crop=1.0, workers=0, seed=3, knn_test="tenth"), source)
    plan, fabric = SimSiam.default_plan(32), Fabric(accelerator="cpu", precision="32-true")
    evaluate = create_evaluate(options, source, test, plan, fabric)
    assert evaluate is not None
    values = evaluate(backbone, True, Meeting(fabric))

    ready = Preprocessing(32, plan.mean, plan.std, 1.0)
    bank = extract(backbone, source, ready, pixels=True)
    if test is None:
        asked = torch.isin(bank.rows, held_out(300, stream(3, "held-out"))[1])
        bank, queries = bank[~asked], bank[asked]
    else:
        queries = extract(backbone, test, ready, pixels=True)
    raw = [Features(part.pixels, part.labels, part.rows) for part in (bank, queries) if part.pixels is not None]
    assert values == {
        "knn_top1": knn_accuracy(bank, queries),
        "embedding_rank": effective_rank(queries.vectors),
        "knn_top1_pixels": knn_accuracy(raw[0], raw[1]),
        "knn_top1_chance": max(np.bincount(queries.labels)) / len(queries.labels),
        "knn_k": 20,
        "knn_train_images": 300 if with_test else 270,
        "knn_test_images": 60 if with_test else 30,
    }


def test_every_image_is_classified_by_all_others() -> None:
    """As many runs of kNN as there are images, each without the image that it is asked about."""
    torch.manual_seed(0)
    source, backbone = Shapes("train", 90), TinyBackbone()
    options = resolve_knn(PretrainOptions(image_size=32, crop=1.0, workers=0, knn_k=5), source)
    assert options.knn_test == "leave_one_out"
    plan, fabric = SimSiam.default_plan(32), Fabric(accelerator="cpu", precision="32-true")
    evaluate = create_evaluate(options, source, None, plan, fabric)
    assert evaluate is not None
    values = evaluate(backbone, True, Meeting(fabric))

    found = extract(backbone, source, Preprocessing(32, plan.mean, plan.std, 1.0), pixels=True)
    assert found.pixels is not None
    for name, vectors, temperature in (("knn_top1", found.vectors, 0.07), ("knn_top1_pixels", found.pixels, 0.07)):
        right = 0
        for one in range(90):
            rest = torch.arange(90) != one
            bank = Features(vectors[rest], found.labels[rest], found.rows[rest])
            asked = Features(vectors[~rest], found.labels[~rest], found.rows[~rest])
            right += int(knn_accuracy(bank, asked, 5, temperature))
        assert values[name] == pytest.approx(right / 90)
    assert {name: values[name] for name in ("knn_k", "knn_train_images", "knn_test_images")} == {
        "knn_k": 5, "knn_train_images": 89, "knn_test_images": 90
    }  # fmt: skip


def test_a_sample_none_of_which_can_be_read_is_named() -> None:
    some, none = (Features(torch.zeros(n, 2), *[torch.zeros(n, dtype=torch.int64)] * 2) for n in (1, 0))
    for bank, queries, name in ((none, some, "training"), (some, none, "test")):
        with pytest.raises(InputError, match=f"none of the {name} images that were drawn can be read"):
            figures(bank, queries, PretrainOptions(), torch.device("cpu"), lambda: None)


def test_a_run_keeps_the_test_that_it_began_with(tmp_path: Path) -> None:
    few, many = Shapes("train", 5_000), Shapes("train", 5_001)
    new = PretrainOptions(out=str(tmp_path))
    assert [resolve_knn(new, of).knn_test for of in (few, many)] == ["leave_one_out", "tenth"]
    assert resolve_knn(new, few).knn_bank == BANK
    for began, option, expected in (("", None, 0), ("knn_bank: 7", None, 7), ("knn_bank: 7", 9, 9)):
        (tmp_path / "config.yaml").write_text(f"{began}\nbackbone: {{name: resnet18}}\n")
        found = resolve_knn(replace(new, knn_bank=option), few)
        assert (found.knn_bank, found.knn_test) == (expected, "tenth")  # versions without the option held out a tenth
    (tmp_path / "config.yaml").write_text("knn_test: leave_one_out\nbackbone: {name: resnet18}\n")
    assert resolve_knn(new, many).knn_test == "leave_one_out"


def test_a_sample_is_stated_once_on_the_way_and_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert pretrain(f"--data shapes:200 {SIMSIAM} --epochs 1 --knn-bank 3 --out {run}") == 0
    test = "on 3 of 40 test images (the test split of shapes:200), by "
    untrained, last = [line for line in capsys.readouterr().out.splitlines() if "test images" in line]
    assert untrained.startswith("untrained: kNN accuracy ")
    assert untrained.endswith(f"; {test}all 3 training images, fewer than k 5, drawn from 200")
    assert last == f"kNN accuracy {test}the 3 nearest of 3 training images, drawn from 200:"
    assert yaml.safe_load((run / "config.yaml").read_text())["knn_bank"] == 3
    sizes = {"knn_k": 3, "knn_train_images": 3, "knn_test_images": 3}
    sizes |= {"knn_train_images_of": 200, "knn_test_images_of": 40}
    summary = json.loads((run / "summary.json").read_text())
    assert {name: value for name, value in summary.items() if name.startswith("knn") and "top1" not in name} == {
        **sizes, "knn_test_data": "the test split of shapes:200",
    }  # fmt: skip
    with (run / "evaluation.csv").open() as file:
        for step in ("0", "12"):
            file.seek(0)
            written = {row["name"]: row["value"] for row in csv.DictReader(file) if row["step"] == step}
            assert {name: written[name] for name in sizes} == {name: str(size) for name, size in sizes.items()}
    assert pretrain(f"--data shapes:200 {SIMSIAM} --epochs 1 --knn-bank -1 --out {run}") == 2
    assert "knn-bank: -1 must be at least 0" in capsys.readouterr().err


def test_a_run_says_where_its_figures_are_of_other_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, line = tmp_path / "run", f"--data shapes:64 {SIMSIAM} --epochs 1 --out"
    assert pretrain(f"{line} {run} --knn-bank 6") == 0
    file = run / "evaluation.csv"
    file.write_text("".join(row for row in file.read_text().splitlines(keepends=True) if not row.startswith("4,")))
    assert pretrain(f"{line} {run} --knn-bank 0 --workers 0") == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["knn_bank"] == 0  # which the next part resumes with
    *_, test, trained, before = capsys.readouterr().out.splitlines()
    assert test.startswith("kNN accuracy on 12 test images")
    assert trained.startswith("  trained ")
    assert before == "  before training, other images were measured (evaluation.csv)"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["knn_train_images"], summary["knn_train_images_untrained"]) == (64, 6)
    assert (summary["knn_test_images"], summary["knn_test_images_untrained"]) == (12, 6)
