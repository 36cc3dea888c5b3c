"""What is written may be read by those whom the user's umask lets read it."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hardviews.cli import main
from hardviews.data.indexing.cache import alone, cache_folder
from hardviews.data.indexing.index import record_batch, write
from hardviews.data.sources import table
from tests.runs.test_pretrain import SIMSIAM, pretrain

UMASK, FILE, FOLDER = 0o027, 0o640, 0o750


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(UMASK)
    yield
    os.umask(before)


def assert_readable(folder: Path, *names: str) -> None:
    found = list(folder.rglob("*"))
    wrong = {
        str(path.relative_to(folder)): oct(mode)
        for path in found
        if (mode := path.stat().st_mode & 0o777) != (FOLDER if path.is_dir() else FILE)
    }
    assert not wrong
    assert {path.name for path in found} >= set(names)


def test_what_the_verbs_write(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"--data shapes:32 {SIMSIAM} --epochs 2 --knn-epochs 1 --keep-epochs 1 --tensorboard true --out {run}"
    assert pretrain(line) == 0
    assert main(f"evaluate {run} --data shapes:32 --workers 0".split()) == 0
    assert main(f"embed {run} --data shapes:8 --workers 0 --out {tmp_path}/embeddings.parquet".split()) == 0
    for kind in ("timm", "safetensors"):
        assert main(f"export {run} --format {kind} --out {tmp_path / kind}".split()) == 0
    wanted = ("embeddings.parquet", "model.safetensors", "vectors.npy", "last.pt", "epoch-0001.pt", "config.yaml")
    assert_readable(tmp_path, *wanted)


def test_what_is_kept_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index, and a table that is too large for memory, in a cache that several users may share."""
    monkeypatch.setenv("HARDVIEWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "HELD_BYTES", 0)
    picture = BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    pq.write_table(pa.table({"image": [picture.getvalue()] * 3}), tmp_path / "a.parquet")
    assert len(table.Table([tmp_path / "a.parquet"], "a")) == 3
    file = cache_folder("lists") / "a.index"
    with alone(file):
        written = write(file, lambda: iter([record_batch(start=np.array([1, 2, 3]))]), {})
    assert written.numbers("start").tolist() == [1, 2, 3]
    assert_readable(tmp_path / "cache", "a.index", "a.lock")
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    assert not list((tmp_path / "cache").rglob("*.part"))
