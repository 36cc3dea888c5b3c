"""A run on tiles of scenes: trained on, resumed, measured, embedded and shown as what they are."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from hardviews.analysis.run import read
from hardviews.cli import main
from hardviews.data.reading.decode import Bounds
from hardviews.data.sources import as_source, open_source
from hardviews.doctor.checks import check_data
from hardviews.errors import InputError
from hardviews.options.embedding import EmbedOptions
from hardviews.probing.sample import sampled
from hardviews.runs.pictures import reader, source_of
from hardviews.setup.data import in_parts

TINY = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --batch-size 8 --workers 0 --tile 32 "
    "--tensorboard false --accelerator cpu --method simsiam --method.dim 16 --method.predictor-dim 8 --knn-epochs 0"
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of a scene each: 96x96 of which a third is empty, and a stack of two frames of 64x70."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    draw = np.random.default_rng(0)
    for name in ("field", "wood"):
        (folder / name).mkdir(parents=True)
    scene = draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    scene[64:] = 7
    Image.fromarray(scene).save(folder / "field" / "a.png")
    frames = [Image.fromarray(draw.integers(0, 256, (64, 70, 3), dtype=np.uint8)) for _ in range(2)]
    frames[0].save(folder / "wood" / "b.tif", save_all=True, append_images=frames[1:])
    return folder


def test_tiles_from_pretraining_to_the_report(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    line = [*TINY.split(), "--frames", "all", "--data", str(scenes), "--out", str(run)]
    assert main(["pretrain", *line, "--epochs", "1"]) == 0
    said = capsys.readouterr()
    assert "tile is empty so far, of 21; others take their place" in said.err + caplog.text
    assert re.search(r"\d tiles? w(as|ere) empty; others took their place", said.out)
    assert 1 <= json.loads((run / "summary.json").read_text())["empty_tiles"] <= 3
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["tile"], config["frames"]) == (32, "all")
    assert not (run / "unreadable.csv").exists()

    source = open_source(str(scenes), tile=32, every_frame=True)
    assert len(source) == 9 + 2 * 6
    one = read(run)
    picture = reader(one, source_of(one))
    assert callable(picture)
    shown = picture(20)
    assert shown is not None
    assert np.array_equal(np.asarray(shown.pixels), source.read(20).numpy())

    out = tmp_path / "embeddings.parquet"
    more = ["--tile", "32", "--frames", "all", "--accelerator", "cpu", "--workers", "0"]
    assert main(["embed", str(run), "--data", str(scenes), "--out", str(out), *more]) == 0
    table = pq.read_table(out)
    assert table["path"].to_pylist() == [source.path(k) for k in (*range(6), *range(9, 21))]
    assert table["label"].to_pylist() == [0] * 6 + [1] * 12
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(scenes), *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == str(scenes)


def test_the_doctor_counts_empty_tiles_and_fails_none(scenes: Path) -> None:
    source = open_source(str(scenes), tile=32)
    found = check_data(sampled(source, Bounds(), 20, seed=0, seconds=60), 32, tolerance=0.01)
    assert found.verdict == "ok"
    assert "12 of 12 pictures decode" in found.says
    assert "3 further tiles are empty, and others are taken in their place" in found.says


def test_a_run_on_tiles_can_not_go_on_with_others(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    line = [*TINY.split(), "--data", str(scenes), "--out", str(run)]
    assert main(["pretrain", *line, "--epochs", "1", "--tile", "40"]) == 0
    capsys.readouterr()
    assert main(["pretrain", *line, "--epochs", "2"]) == 2
    assert "tile" in capsys.readouterr().err


def test_objects_are_cut_too_or_refused(scenes: Path) -> None:
    options = EmbedOptions(data="object:x", out="", tile=32, frames="all")
    assert len(in_parts(options, open_source(str(scenes)))) == 21
    with pytest.raises(InputError, match="--tile and --frames take images in files"):
        in_parts(options, as_source([np.zeros((64, 64, 3), np.uint8)]))
    assert in_parts(replace(options, tile=0, frames="first"), source := open_source(str(scenes))) is source
