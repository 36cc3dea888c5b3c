"""Faults put into the data of real runs: each is listed and training continues, or ends in a clear line; none hangs."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hardviews.cli import main
from tests.runs.test_pretrain import SIMSIAM, rows

NARROW = (
    "--backbone resnet18 --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1 --backbone.stem imagenet "
    f"--image-size 32 --batch-size 16 --tensorboard false --knn-epochs 0 --log-steps 1 {SIMSIAM}"
)
LIMIT = 240  # seconds after which a run is taken to hang


def picture(file: Path, size: tuple[int, int] = (40, 40), seed: int = 0) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def good(folder: Path, count: int = 64) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        picture(folder / f"{number:03d}.jpg", seed=number)
    return folder


def command(data: Path, run: Path, *more: str) -> list[str]:
    line = ["--data", str(data), "--out", str(run), *NARROW.split(), *more]
    return [sys.executable, "-m", "hardviews.cli", "pretrain", *line]


def trained(data: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(data, run, *more), check=False, capture_output=True, text=True, timeout=LIMIT, env=environment
    )


def listed(run: Path, kind: str = "unreadable") -> dict[str, str]:
    """Name of the file to the reason it could not be read for, or what is said of it."""
    found: dict[str, str] = {}
    for file in run.glob(f"{kind}*.csv"):
        with file.open(encoding="utf-8") as opened:
            found |= {Path(row["path"]).name: row["reason"] for row in csv.DictReader(opened)}
    return found


@pytest.mark.fault("truncated picture", "listed, another image in its place")
@pytest.mark.fault("JPEG without its last two bytes", "listed as cut short, trained on")
@pytest.mark.fault("file of zero bytes", "listed, another image in its place")
@pytest.mark.fault("text with a picture's extension", "listed, another image in its place")
@pytest.mark.fault("picture with another format's extension", "trained on")
@pytest.mark.fault("decompression bomb of 100,000 x 100,000 pixels", "listed, another image in its place")
@pytest.mark.fault("picture of 1 x 1 pixel", "trained on")
@pytest.mark.fault("panorama of 20,000 x 10 pixels", "trained on")
@pytest.mark.fault("dangling link", "listed, another image in its place")
@pytest.mark.fault("disk that answers with I/O errors", "listed, another image in its place")
@pytest.mark.fault("pipe with a picture's extension", "listed, never opened")
@pytest.mark.fault("loop of directories", "every picture is found once")
@pytest.mark.fault("file name that is not UTF-8", "trained on")
@pytest.mark.fault("PostScript program with a picture's extension", "listed, never run")
def test_a_folder_of_everything_that_can_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = good(tmp_path / "data"), tmp_path / "run"
    whole = (data / "000.jpg").read_bytes()
    (data / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "tail.jpg").write_bytes(whole[:-2])
    (data / "zero.jpg").write_bytes(b"")
    (data / "text.jpg").write_text("not a picture")
    (data / "bomb.png").write_bytes(bomb())
    picture(data / "really-a-jpeg.png")
    (data / "really-a-jpeg.png").write_bytes(whole)
    picture(data / "dot.png", (1, 1))
    picture(data / "panorama.png", (20_000, 10))
    (data / "gone.jpg").symlink_to(data / "nowhere.jpg")
    (data / "bad-disk.jpg").symlink_to("/proc/self/mem")  # whose first bytes nobody can read: an I/O error
    inner = data / "inner"
    inner.mkdir()
    (inner / "loop").symlink_to(data, target_is_directory=True)
    os.mkfifo(data / "pipe.jpg")  # to open it would wait for ever
    Image.new("RGB", (8, 8)).save(data / "program.jpg", "EPS")
    ghostscript, ran = tmp_path / "bin" / "gs", tmp_path / "ran"  # which Pillow would have run it
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe.jpg")).write_bytes(whole)
    found = trained(data, run, "--epochs", "4", "--max-unreadable", "0.2", "--workers", "1")
    assert found.returncode == 0, found.stderr
    names = {"cut.jpg", "zero.jpg", "text.jpg", "bomb.png", "gone.jpg", "pipe.jpg", "bad-disk.jpg", "program.jpg"}
    assert listed(run).keys() == names
    assert not ran.exists()
    assert listed(run)["zero.jpg"] == "empty"
    assert listed(run)["pipe.jpg"] == "not a file"
    assert listed(run)["bad-disk.jpg"] == "Input/output error"
    assert "8 images could not be read" in found.stdout
    assert listed(run, "cut_short") == {"tail.jpg": "cut short, 100 % shown"}
    assert "1 image lacks its end" in found.stdout
    assert json.loads((run / "summary.json").read_text())["cut_short"] == 1
    assert [row["skipped"] for row in rows(run)] == ["0"] * 16  # of 77 pictures, which the loop does not double
    seen = np.concatenate([np.load(file)["image"] for file in (run / "telemetry").glob("*.npz")])
    assert len(set(seen)) == 77 - 8


def bomb() -> bytes:
    """A PNG of some bytes that claims 100,000 x 100,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.fault("picture that may not be read", "listed, another image in its place")
@pytest.mark.fault("run folder that may not be written", "a clear line")
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may do everything")
def test_what_may_not_be_read_or_written(tmp_path: Path) -> None:
    data, closed = good(tmp_path / "data"), tmp_path / "closed"
    (data / "000.jpg").chmod(0)
    closed.mkdir(mode=0o555)
    # Root without the rights by which it may do so all the same.
    anyone = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    more = ("--epochs", "1", "--max-unreadable", "0.2", "--workers", "0")
    found, refused = (
        subprocess.run(
            [*anyone, *command(data, run, *more)], check=False, capture_output=True, text=True, timeout=LIMIT
        )
        for run in (tmp_path / "run", closed / "run")
    )
    assert found.returncode == 0, found.stderr
    assert listed(tmp_path / "run") == {"000.jpg": "Permission denied"}
    assert refused.returncode == 2
    assert f"out: {closed / 'run'} can't be written: Permission denied" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.fault("nulls and empty values in a Parquet table", "listed, other images in their place")
def test_parquet_with_nulls(tmp_path: Path) -> None:
    data, run, file = good(tmp_path / "data"), tmp_path / "run", tmp_path / "table.parquet"
    encoded: list[bytes | None] = [file.read_bytes() for file in sorted(data.iterdir())]
    encoded[3], encoded[5] = None, b""
    pq.write_table(pa.table({"image": pa.array(encoded, pa.binary())}), file)
    found = trained(file, run, "--epochs", "2", "--max-unreadable", "0.2", "--workers", "0", "--in-memory", "off")
    assert found.returncode == 0, found.stderr
    assert len(listed(run)) == 2
    assert set(listed(run).values()) <= {"null", "empty", "is null", "no image"}, listed(run)


@pytest.mark.fault("files that vanish while the run reads them", "listed, other images in their place")
@pytest.mark.fault("files that grow, and new ones, while the run reads them", "the images are those of the start")
def test_files_that_change_while_the_run_reads_them(tmp_path: Path) -> None:
    data, run = good(tmp_path / "data"), tmp_path / "run"
    more = ("--epochs", "20", "--max-unreadable", "0.5", "--workers", "1", "--in-memory", "off")
    process = subprocess.Popen(command(data, run, *more), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(run / "metrics.csv")
    for number in range(8):
        (data / f"{number:03d}.jpg").unlink()
        with (data / f"{number + 8:03d}.jpg").open("ab") as opened:
            opened.write(os.urandom(5000))
        picture(data / f"new-{number}.jpg")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert len(rows(run)) == 80
    assert listed(run).keys() == {f"{number:03d}.jpg" for number in range(8)}


@pytest.mark.fault("pictures added or renamed between a stop and a resume", "a clear line; the run is as it was")
def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = good(tmp_path / "data"), tmp_path / "run"
    argv = command(data, run, "--epochs", "2", "--workers", "0")[3:]
    assert main(argv) == 0
    before = {file: file.read_bytes() for file in run.rglob("*.*") if file.is_file()}
    picture(data / "more.jpg")
    assert main(argv) == 2
    line = "data: this run began with 64 images and finds 65; restore the original images, or continue with"
    assert line in capsys.readouterr().err
    (data / "000.jpg").unlink()
    assert main(argv) == 2
    assert "began with 64 images and finds others of that number" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run.rglob("*.*") if file.is_file()} == before
    (data / "more.jpg").unlink()
    picture(data / "000.jpg")
    assert main(argv) == 0


@pytest.mark.fault("killed worker", "a clear line naming the last checkpoint; the same command resumes")
def test_a_killed_worker_ends_in_a_clear_line_and_the_run_goes_on_later(tmp_path: Path) -> None:
    data, run = good(tmp_path / "data"), tmp_path / "run"
    more = ("--epochs", "20", "--workers", "2", "--in-memory", "off")
    process = subprocess.Popen(command(data, run, *more), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(run / "checkpoints" / "last.pt")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"hardviews" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "loading images failed" in errors
    assert str(run / "checkpoints" / "last.pt") in errors
    assert "Traceback" not in errors
    assert main(command(data, run, *more)[3:]) == 0
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(80)]


@pytest.mark.fault("worker that hangs", "after 10 minutes without a batch a clear line naming the last checkpoint")
def test_a_worker_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A stopped process, as one behind a dead network disk, heeds not even the SIGTERM that is to end it."""
    data, run = good(tmp_path / "data"), tmp_path / "run"
    argv = command(data, run, "--epochs", "500", "--workers", "2", "--in-memory", "off")[3:]
    code = "import sys; from hardviews.data.loading import workers; workers.GLANCE, workers.PATIENCE = 1, 8; "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code} from hardviews.cli import main; sys.exit(main({argv!r}))"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(run / "checkpoints" / "last.pt")
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    stopped = [int(pid) for pid in workers if b"hardviews" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        _, errors = process.communicate(timeout=LIMIT)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert stopped
    assert process.returncode == 1
    assert "loading images failed: no batch came for 8 s" in errors
    assert str(run / "checkpoints" / "last.pt") in errors
    assert "Traceback" not in errors


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
