"""Features in a Parquet file: the right rows, whole or not at all, by however many processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hardviews.cli import main
from hardviews.data.sources import open_source
from hardviews.evaluation import embeddings
from hardviews.evaluation.features import Preprocessing, extract
from hardviews.models import embed as embedding
from hardviews.models.load import load_model

REPOSITORY = Path(__file__).parents[2]
TINY = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --batch-size 16 --workers 0 "
    "--tensorboard false --knn-epochs 0 --epochs 1 --method.dim 16 --method.predictor-dim 8"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed") / "run"
    assert main(["pretrain", *TINY.split(), "--data", "shapes:48", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for index in range(6):
            noise = np.random.default_rng(index).integers(0, 256, (40, 36 + index, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / label / f"{index}.png")
    return folder


def embed(target: Path, data: str | Path, out: Path, *more: str) -> int:
    line = ["--data", str(data), "--out", str(out), "--workers", "0", "--accelerator", "cpu"]
    return main(["embed", str(target), *line, *more])


def vectors(table: Any) -> torch.Tensor:
    flat = np.array(table["embedding"].combine_chunks().flatten())
    return torch.from_numpy(flat).reshape(table.num_rows, -1)


def test_the_file_holds_what_extract_gives(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "embeddings.parquet"
    assert embed(run, "shapes:48", out, "--batch-size", "10", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "target": str(run), "data": "shapes", "rows": 48, "dimension": 16, "unreadable": 0, "out": str(out),
    }  # fmt: skip
    table = pq.read_table(out)
    source, subject = open_source("shapes:48"), load_model(str(run))
    ready = subject.preprocessing
    whole = Preprocessing(ready.image_size, ready.mean, ready.std, 1.0)  # small pictures are not cropped
    wanted = extract(subject.backbone, source, whole, batch_size=48)
    torch.testing.assert_close(vectors(table), wanted.vectors, atol=1e-5, rtol=0)
    assert table["label"].to_pylist() == wanted.labels.tolist()
    assert table["path"].to_pylist() == [source.path(index) for index in range(48)]
    assert [str(kind) for kind in table.schema.types[:2]] == ["string", "int64"]
    assert (table.schema.types[2].list_size, str(table.schema.types[2].value_type)) == (16, "float")
    said = table.schema.metadata
    assert json.loads(said[b"class_names"]) == source.class_names
    assert (said[b"model"].decode(), said[b"architecture"]) == (str(run), b"resnet18")
    assert list(tmp_path.iterdir()) == [out]


def test_row_groups_are_written_on_the_way(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    assert embed(run, "shapes:48", whole, "--batch-size", "10") == 0
    monkeypatch.setattr(embeddings, "GROUP_BYTES", 20 * 16 * 4)  # the bytes of 20 rows, and of two batches
    assert embed(run, "shapes:48", parts, "--batch-size", "10") == 0
    file = pq.ParquetFile(parts)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [20, 20, 8]
    assert pq.read_table(parts).equals(pq.read_table(whole))


def test_unreadable_images_are_left_out_and_counted(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a" / "3.png").write_bytes(b"no picture")
    out = tmp_path / "out.parquet"
    assert embed(run, pictures, out, "--batch-size", "5") == 0
    assert "1 image could not be read" in capsys.readouterr().out
    table = pq.read_table(out)
    names = [Path(path).relative_to(pictures).as_posix() for path in table["path"].to_pylist()]
    assert names == [f"{label}/{k}.png" for label in "ab" for k in range(6) if (label, k) != ("a", 3)]
    assert table["label"].to_pylist() == [0] * 5 + [1] * 6

    # without labels there is no such column
    assert embed(run, pictures / "b", tmp_path / "flat.parquet") == 0
    flat = pq.read_table(tmp_path / "flat.parquet")
    assert flat.column_names == ["path", "embedding"]
    torch.testing.assert_close(vectors(flat), vectors(table)[5:], atol=1e-5, rtol=0)

    for file in pictures.rglob("*.png"):
        file.write_bytes(b"no picture")
    assert embed(run, pictures, tmp_path / "none.parquet") == 2
    assert "no image can be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("none*"))


def test_another_split_and_another_size(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert embed(run, "shapes:50", out, "--split", "test", "--image-size", "24", "--precision", "bf16-mixed") == 0
    table = pq.read_table(out)
    assert table.num_rows == 10
    assert all("test" in path for path in table["path"].to_pylist())
    assert table.schema.metadata[b"image_size"] == b"24"


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (OSError(28, "No space left on device"), 1, "can't be written: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_fault_half_way_leaves_the_old_file_as_it_was(
    fault: BaseException, code: int, says: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out.parquet"
    out.write_bytes(b"the old one")
    write, calls = embeddings.EmbeddingFile.write, []

    def fail(self: Any, *arguments: Any) -> None:
        calls.append(len(list(tmp_path.glob("*.part"))))
        if len(calls) == 3:
            raise fault
        write(self, *arguments)

    monkeypatch.setattr(embeddings.EmbeddingFile, "write", fail)
    assert embed(run, "shapes:48", out, "--batch-size", "10") == code
    assert calls == [1, 1, 1]  # it did write beside
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"the old one"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RUN --out out.parquet", "data: give --data"),
        ("RUN --data shapes:8", "out: give --out"),
        ("RUN --data shapes:8 --out FOLDER", "is a folder"),
        ("RUN --data shapes:8 --out nowhere/out.parquet", "there is no folder nowhere"),
        ("RUN --data shapes:8 --out out.xyz", "out.xyz is to be a Parquet file; let its name end with .parquet"),
        ("RUN --data data.parquet --out data.parquet", "is the data itself"),
        ("RUN --data shapes:8 --out out.parquet --batch-size 0", "batch-size"),
        ("RUN --data shapes:8 --out out.parquet --std 0,1,1", "std"),
        ("RUN --data shapes:8 --out out.parquet --split validation", "not one of train, test"),
        ("RUN --data nowhere.parquet --out out.parquet", "no such file"),
        ("RUN --data shapes:8 --out out.parquet --checkpoint c.pth", "which has its own"),
        (
            "vit_tiny_patch16_224 --pretrained false --data shapes:8 --image-size 8 --out o.pq",
            "does not take images of 8",
        ),
        ("resnet19 --data shapes:8 --out out.parquet", "unknown backbone 'resnet19'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    line: str, says: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()
    Path("data.parquet").write_bytes(b"precious")
    assert main(["embed", *(str(run) if word == "RUN" else word for word in line.split())]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FOLDER", "data.parquet"]
    assert Path("data.parquet").read_bytes() == b"precious"


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)


def test_two_processes_write_what_one_writes(run: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "3.png").write_bytes(b"no picture")  # in the first one's half
    (tmp_path / "out").mkdir()
    one, two = tmp_path / "out" / "one.parquet", tmp_path / "out" / "two.parquet"
    assert embed(run, pictures, one, "--batch-size", "3") == 0
    options = f"--data {pictures} --out {two} --batch-size 3 --workers 1 --accelerator cpu"
    done = torchrun("-m", "hardviews.cli", "embed", str(run), *options.split())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "11 images of" in done.stdout
    assert "1 image could not be read" in done.stdout
    ours, theirs = pq.read_table(two), pq.read_table(one)
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert ours.drop(["embedding"]).equals(theirs.drop(["embedding"]))
    torch.testing.assert_close(vectors(ours), vectors(theirs), atol=1e-6, rtol=0)
    assert sorted(path.name for path in two.parent.iterdir()) == ["one.parquet", "two.parquet"]


def test_where_one_of_two_processes_fails_nothing_is_left(run: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from hardviews.cli import main\n"
        "from hardviews.models import embed as embedding\n"
        "from hardviews.errors import RunError\n"
        "write = embedding.write_part\n"
        "def fail(*arguments):\n"
        "    write(*arguments)\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise RunError('its disk is gone')\n"
        "embedding.write_part = fail\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    options = f"--data shapes:48 --out {out}/e.parquet --batch-size 8 --workers 0 --accelerator cpu"
    done = torchrun(str(script), "embed", str(run), *options.split())
    assert done.returncode != 0
    assert done.stderr.count("hardviews: error: process 1: its disk is gone") == 1
    assert not list(out.iterdir())


def test_the_part_of_a_process_that_can_not_be_found_is_an_error(tmp_path: Path) -> None:
    schema = embeddings.schema_of(4, False, {})
    file = embeddings.EmbeddingFile(tmp_path / "e.part", schema)
    with pytest.raises(Exception, match="can't be written"), embedding.writing(tmp_path / "e"):
        file.append(tmp_path / "e.part-1")
