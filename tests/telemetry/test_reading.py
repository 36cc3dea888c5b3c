"""What a run wrote, read again: the plan, the views, their pixels."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.analysis import pictures
from hardviews.errors import InputError
from hardviews.methods.dino import DINO
from hardviews.methods.ibot import IBOT
from hardviews.selection.hard_views import Choice
from hardviews.selection.search import first_ids
from hardviews.telemetry import files, reading
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

CPU = torch.device("cpu")


def written(folder: Path, plan: ViewPlan, processes: int = 1) -> tuple[ImageBatch, Views]:
    """Telemetry of two epochs of one step, by so many processes; the images and what was drawn in the second."""
    pixels = torch.randint(0, 256, (12, 32, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImageBatch.pack(list(pixels))
    for process in range(processes):
        kept = Recorder(
            folder / "telemetry", plan, Followed(12, 12, 3, 0, "hardest", 1, 1), process, processes, pytest.fail
        )
        part = slice(process * 12 // processes, (process + 1) * 12 // processes)
        for step in range(2):
            views = draw(plan, images.size, stream(0, "views", step))
            ids = first_ids(plan, 12, CPU)[:, part]
            kept.note(step, images[part], views[part], Choice(ids))
            kept.fetch()
            kept.write(ended=True)
    return images, views


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("plan", [DINO.default_plan(32), IBOT.default_plan(32)], ids=["dino", "ibot"])
def test_files_are_read_as_they_were_written(plan: ViewPlan, processes: int, tmp_path: Path) -> None:
    images, views = written(tmp_path, plan, processes)
    loaded = reading.load(tmp_path)  # refused, if processes listed other combinations
    assert loaded.exhaustive == (plan.draw == 4)
    assert loaded.plan == plan
    assert loaded["image"].tolist() == [*range(12), *range(12)]
    assert loaded["step"].tolist() == [0] * 12 + [1] * 12
    (_, _), (epoch, last) = loaded.epochs()
    assert epoch == 1
    again = last.views()
    for name in ("slot", "flip", "jitter", "order", "grey", "blur", "solarize"):
        assert torch.equal(getattr(again, name), getattr(views, name)), name
    # In single precision boxes still are of the same pixels, so views are rendered again bit by bit.
    for ours, theirs in zip(render(images, again, plan), render(images, views, plan), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(last.kept(), first_ids(plan, 12, CPU))
    assert len(loaded.gallery) == 3
    for index, file in loaded.gallery.items():
        with Image.open(file) as picture:
            assert np.array_equal(np.asarray(picture), images.image(index).permute(1, 2, 0).numpy())


def test_pictures_of_a_strangers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is not run, a pipe not opened, a bomb not decoded: each is a picture less."""
    written(tmp_path, IBOT.default_plan(32))
    program, pipe, bomb = reading.load(tmp_path).gallery.values()
    Image.new("RGB", (8, 8)).save(program, "EPS")
    pipe.unlink()
    os.mkfifo(pipe)
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    start = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + start + struct.pack(">I", 5) + b"IDAT")
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # which remembers whether there is one
    loaded = reading.load(tmp_path)
    assert pictures.gallery(loaded) == []
    several = {"image": np.repeat(np.array(list(loaded.gallery)), 4), "cost": np.arange(8.0)}
    monkeypatch.setattr(pictures, "by_image", lambda _: several)
    assert [one.data for group in pictures.extremes(loaded, None) for one in group] == [None] * 8
    assert not (tmp_path / "ran").exists()


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no telemetry"):
        reading.load(tmp_path)
    written(tmp_path, IBOT.default_plan(32))
    (tmp_path / "telemetry" / "epoch-0001.npz").write_bytes(b"PK half")
    with pytest.raises(InputError, match=r"epoch-0001\.npz is damaged"):
        reading.load(tmp_path)
    file = tmp_path / "telemetry" / "epoch-0001.npz"
    arrays = files.load(tmp_path / "telemetry" / "epoch-0000.npz")
    others = arrays["combinations"].copy()
    others[0] = others[1]
    for part in ({"combinations": others[1:]}, {"combinations": others}, {"blur": arrays["blur"][:, :1]}):
        file.write_bytes(files.compressed(arrays | part))
        with pytest.raises(InputError, match=r"epoch-0001\.npz is damaged, or from another version"):
            reading.load(tmp_path)
    about = tmp_path / "telemetry" / "about.json"
    whole = json.loads(about.read_text())
    for text, said in (
        ('{"format": 99}', "another version"), ("[2]", "another version"), ("{", "can't be read"),
        (json.dumps(whole | {"gallery": None}), "is damaged"), (json.dumps(whole | {"plan": {"slots": 3}}), "damaged"),
    ):  # fmt: skip
        about.write_text(text)
        with pytest.raises(InputError, match=said):
            reading.load(tmp_path)


def test_damaged_files_are_named_or_as_they_were(tmp_path: Path) -> None:
    """Bytes turned over, zeroed, cut off: neither a report nor a run that resumes may meet anything else."""
    written(tmp_path, IBOT.default_plan(32))
    file = tmp_path / "telemetry" / "epoch-0001.npz"
    whole, rows = file.read_bytes(), files.load(file)
    random, refused = np.random.default_rng(0), 0
    for case in range(200):
        damaged, at = bytearray(whole), int(random.integers(len(whole)))
        if case % 3 == 0:
            damaged[at] ^= int(random.integers(1, 256))
        elif case % 3 == 1:
            damaged[at : at + 40] = bytes(len(damaged[at : at + 40]))
        else:
            del damaged[at:]
        file.write_bytes(damaged)
        try:
            again = files.load(file)
        except OSError:
            refused += 1
            with pytest.raises(InputError, match=r"is damaged"):
                reading.load(tmp_path)
        else:
            assert {name: x.tobytes() for name, x in again.items()} == {name: x.tobytes() for name, x in rows.items()}
            reading.load(tmp_path)
    assert refused > 150
