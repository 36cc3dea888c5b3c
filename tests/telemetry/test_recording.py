"""What telemetry writes, against numbers drawn and costs counted again; and that it changes and stops nothing."""

import errno
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hardviews.selection import policies
from hardviews.selection.costs import Costs
from hardviews.selection.guard import untouched
from hardviews.selection.hard_views import Choice
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.telemetry import files, gallery
from hardviews.telemetry.files import Rows
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import SAMPLED, Recorder
from hardviews.training.optimizers import Rates, create_optimizer, parameter_groups
from hardviews.training.step import Step
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream
from tests.methods.multi_crop import dino, ibot, tiny_vit
from tests.runs.test_pretrain import SIMSIAM, assert_equal, pretrain, state
from tests.selection.brute_force import every_combination, every_total
from tests.training.test_step import simsiam

STEPS, SEED, IMAGES = 4, 3, 32


def batch(step: int, size: int = 8) -> ImageBatch:
    """Images of a data set of 32, all of them in four steps."""
    generator = torch.Generator().manual_seed(step)
    blocks = torch.randint(0, 256, (size, 4, 3, 3), generator=generator, dtype=torch.uint8)
    pictures = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return ImageBatch.pack(list(pictures), torch.arange(size) + size * step)


def followed(count: int = 10, pictures: int = 0, policy: str = "hardest", every: int = 1) -> Followed:
    return Followed(IMAGES, count, pictures, SEED, policy, every, STEPS)


def step_of(method: Any, observe: Any, policy: str = "hardest", scoring: Scoring = EXACT, parts: int = 2) -> Step:
    optimizer = create_optimizer("sgd", parameter_groups(method, 1e-4, True, method.constant_rate), 0.9)
    return Step(
        Fabric(accelerator="cpu", devices=1), method, optimizer, Rates(0.1, 0.0, STEPS, 0), policies.named(policy),
        SEED, steps=STEPS, parts=parts, scoring=scoring, observe=observe,
    )  # fmt: skip


def trained(telemetry: Recorder, method: Any, **options: Any) -> None:
    """An epoch of four steps of eight images, each in two parts."""
    step = step_of(method, telemetry.note, **options)
    for index in range(STEPS):
        step.watch.start()
        step(batch(index), index)
    telemetry.fetch()
    telemetry.write(ended=True)


def only_file(folder: Path) -> Rows:
    ((_, _, file),) = files.list_files(folder)
    return files.load(file)


def test_numbers_are_those_of_a_redraw(tmp_path: Path) -> None:
    method = ibot()
    telemetry = Recorder(tmp_path, method.plan, followed())
    trained(telemetry, method)
    rows = only_file(tmp_path)
    assert sorted(rows["image"]) == sorted(followed().indices().tolist())  # each of the ten once
    assert (rows["step"] == rows["image"] // 8).all()
    drawn = [draw(method.plan, batch(s).size, stream(SEED, "views", s)) for s in range(STEPS)]
    for n, (step, image) in enumerate(zip(rows["step"], rows["image"], strict=True)):
        views, b = drawn[step], int(image) % 8
        for name in ("flip", "jitter", "order", "grey", "blur", "solarize"):
            assert np.array_equal(rows[name][n], getattr(views, name)[:, b].numpy()), name
        assert np.array_equal(rows["box"][n], views.box[:, b].float().numpy())
        assert views.mask is not None
        assert rows["masked"][n] == pytest.approx(views.mask[:, b].float().mean((1, 2)).numpy(), abs=1e-6)
        assert rows["size"][n].tolist() == batch(int(step)).size[b].tolist()
    assert rows["masked"].max() > 0
    assert rows["slot"].tolist() == method.plan.slot_of()


CREATE: dict[str, Callable[[], Any]] = {
    "pairs": lambda: simsiam(bn=False),
    "ibot": ibot,
    "dino": lambda: dino(tiny_vit),
}


@pytest.mark.parametrize("name", CREATE)
@pytest.mark.parametrize("policy", ["hardest", "easiest"])
def test_costs_are_those_of_every_combination_at_that_step(name: str, policy: str, tmp_path: Path) -> None:
    method = CREATE[name]()
    telemetry = Recorder(tmp_path, method.plan, followed(policy=policy))
    expected: dict[int, tuple[np.ndarray[Any, Any], list[int]]] = {}  # costs of all combinations, kept ids

    def observe(step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        telemetry.note(step, images, candidates, choice)
        with torch.no_grad(), untouched(method):  # before the weights move
            encoding = method(render(images, candidates, method.plan), masks=candidates.mask)
            totals = every_total(method.costs(encoding), method.plan)
        for b, image in enumerate(images.index.tolist()):
            expected[image] = totals[:, b].numpy(), choice.ids[:, b].tolist()

    step = step_of(method, observe, policy)
    for index in range(STEPS):
        step.watch.start()
        step(batch(index), index)
    telemetry.fetch()
    telemetry.write(ended=True)

    rows, combos = only_file(tmp_path), every_combination(method.plan)
    assert len(rows["image"]) == 10
    assert rows["combinations"].tolist() == combos.tolist()
    for n, image in enumerate(rows["image"].tolist()):
        costs, kept = expected[image]
        assert rows["kept"][n].tolist() == kept
        best = costs.max() if policy == "hardest" else costs.min()
        assert rows["cost"][n] == pytest.approx(best, abs=1e-5)
        assert rows["cost_mean"][n] == pytest.approx(costs.mean(), abs=1e-5)
        assert rows["combination_cost"][n] == pytest.approx(costs, abs=1e-5)
        # Costs as close as rounding may stand in either order.
        surely, perhaps = (costs > best + 1e-5).sum(), (costs > best - 1e-5).sum()
        assert surely <= rows["rank"][n] < perhaps
    assert rows["chosen"].all()
    assert rows["scored"].all()


def test_what_is_not_known_is_not_claimed(tmp_path: Path) -> None:
    def rows(name: str, method: Any, scoring: Scoring = EXACT, policy: str = "hardest") -> Rows:
        every = scoring.every
        trained(
            Recorder(tmp_path / name, method.plan, followed(20, policy=policy, every=every)), method,
            scoring=scoring, policy=policy,
        )  # fmt: skip
        return only_file(tmp_path / name)

    every = rows("every", simsiam(bn=False), Scoring(every=2))
    chosen = every["step"] % 2 == 0
    assert np.array_equal(every["chosen"], chosen)
    assert np.array_equal(every["scored"], chosen)
    assert np.array_equal(np.isnan(every["cost"]), ~chosen)
    assert np.array_equal(every["rank"] == -1, ~chosen)
    assert (every["kept"][~chosen] == [0, 1]).all()
    plain = rows("plain", simsiam(bn=False, plain=True))
    assert not plain["chosen"].any()
    assert not plain["scored"].any()
    assert np.isnan(plain["combination_cost"]).all()
    lowest = rows("lowest", simsiam(bn=False), policy="lowest_iou")
    assert lowest["chosen"].all()
    assert not lowest["scored"].any()
    # Chosen by the costs of a part of the views: what a combination of all costs is not known.
    part = rows("part", dino(tiny_vit), Scoring(network="teacher_targets"))
    assert part["scored"].all()
    assert np.isnan(part["cost"]).all()
    assert (part["rank"] == -1).all()


def test_of_costs_that_are_not_finite_there_is_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (128, 5):
        monkeypatch.setattr("hardviews.telemetry.recording.MOST_COMBINATIONS", most)
        telemetry = Recorder(tmp_path / str(most), simsiam(bn=False).plan, followed(IMAGES))
        images = batch(0)
        views = draw(telemetry.plan, images.size, stream(SEED, "views", 0))
        costs = torch.ones(4, 4, len(images))
        costs[..., 0] = torch.nan
        ids = torch.tensor([[0], [1]]).expand(-1, len(images))
        telemetry.note(0, images, views, Choice(ids, torch.ones(len(images)), costs=Costs(costs)))
        telemetry.fetch()
        telemetry.write(ended=True)
        assert only_file(tmp_path / str(most))["rank"].tolist() == [-1] + [0] * (len(images) - 1)


def test_more_combinations_than_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_of(name: str, policy: str) -> Rows:
        method = simsiam(bn=False)
        trained(Recorder(tmp_path / name, method.plan, followed(policy=policy)), method, policy=policy)
        return only_file(tmp_path / name)

    whole = {policy: rows_of(policy, policy) for policy in ("hardest", "easiest")}
    monkeypatch.setattr("hardviews.telemetry.recording.MOST_COMBINATIONS", 5)
    allowed = whole["hardest"]["combinations"].tolist()
    for policy, rank in (("hardest", 0), ("easiest", -1)):
        rows = rows_of(f"some-{policy}", policy)
        assert len(rows["combinations"]) == SAMPLED
        assert all(ids in allowed for ids in rows["combinations"].tolist())
        assert (rows["rank"] == rank).all()
        number = [allowed.index(ids) for ids in rows["combinations"].tolist()]
        assert np.array_equal(rows["combination_cost"], whole[policy]["combination_cost"][:, number])


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    assert followed(20).indices()[:10].tolist() == followed(10).indices().tolist()
    assert len(followed(100).indices()) == IMAGES
    assert len(followed(0).indices()) == 0


def rows_of(telemetry: Recorder, steps: range, process: int = 0, processes: int = 1) -> None:
    """Notes steps as a process would see them: its part of the images, nothing scored."""
    for step in steps:
        images = batch(step % STEPS)
        part = slice(process * 8 // processes, (process + 1) * 8 // processes)
        images = images[part]
        views = draw(telemetry.plan, images.size, stream(SEED, "views", step))
        telemetry.note(step, images, views, Choice(torch.zeros(2, len(images), dtype=torch.int64)))
    telemetry.fetch()


def all_rows(folder: Path) -> list[tuple[int, int]]:
    written = [files.load(file) for _, _, file in files.list_files(folder)]
    return sorted((int(s), int(i)) for rows in written for s, i in zip(rows["step"], rows["image"], strict=True))


@pytest.mark.parametrize("then", [1, 2, 3])
def test_two_processes_cut_off_go_on_as_any_number_with_every_row_once(then: int, tmp_path: Path) -> None:
    """Checkpoints after 2 and 6 steps; cut off after both processes wrote what they had after 7 (and no checkpoint)."""
    plan = simsiam(bn=False).plan
    for process in range(2):
        telemetry = Recorder(tmp_path, plan, followed(), process, 2)
        for steps, ended in ((range(2), False), (range(2, 4), True), (range(4, 6), False), (range(6, 7), False)):
            rows_of(telemetry, steps, process, 2)
            telemetry.write(ended=ended)
    for process in range(then):
        telemetry = Recorder(tmp_path, plan, followed(), process, then)
        telemetry.resume(6)
        rows_of(telemetry, range(6, 8), process, then)
        telemetry.write(ended=True)
    images = followed().indices().tolist()
    assert all_rows(tmp_path) == sorted((epoch * STEPS + image // 8, image) for image in images for epoch in range(2))


def test_a_damaged_file_is_said_and_written_anew(tmp_path: Path) -> None:
    plan, said = simsiam(bn=False).plan, list[str]()
    (tmp_path / "epoch-0000.npz").write_bytes(b"half of a fi")
    telemetry = Recorder(tmp_path, plan, followed(), say=said.append)
    telemetry.resume(2)
    rows_of(telemetry, range(2, 4))
    telemetry.write(ended=True)
    assert all_rows(tmp_path) == sorted((image // 8, image) for image in followed().indices().tolist() if image >= 16)
    assert len(said) == 1
    assert "damaged" in said[0]

    # And one in which other combinations are listed, as an earlier version did.
    rows = files.load(tmp_path / "epoch-0000.npz")
    (tmp_path / "epoch-0000.npz").write_bytes(files.compressed(rows | {"combinations": rows["combinations"][:2]}))
    telemetry = Recorder(tmp_path, plan, followed(), say=said.append)
    telemetry.resume(3)
    rows_of(telemetry, range(3, 4))
    telemetry.write(ended=True)
    assert all_rows(tmp_path) == sorted((image // 8, image) for image in followed().indices().tolist() if image >= 24)
    assert len(said) == 2
    assert "another version" in said[1]


def test_what_can_not_be_written_stops_nothing_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 0 --out"
    assert pretrain(f"{line} {tmp_path / 'sound'}") == 0
    assert "telemetry" not in capsys.readouterr().out

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", full)
        assert pretrain(f"{line} {tmp_path / 'full'}") == 0
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert_equal(state(tmp_path / "sound"), state(tmp_path / "full"))

    # It can't even be looked into; as root no permission is missing, so it is made up.
    def forbidden(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", forbidden)
        assert Recorder(tmp_path, simsiam(bn=False).plan, followed(pictures=4)).sheet() is None

    # The folder can't be made: a file is in its place.
    (tmp_path / "telemetry").touch()
    said = list[str]()
    telemetry = Recorder(tmp_path / "telemetry", simsiam(bn=False).plan, followed(), say=said.append)
    telemetry.resume(0)
    for steps in (range(4), range(4, 8)):
        rows_of(telemetry, steps)
        telemetry.write(ended=True)
    assert len(said) == 1


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    on, off = tmp_path / "on", tmp_path / "off"
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 0 --backbone.drop_path_rate 0.3"
    assert pretrain(f"{line} --out {on}") == 0
    assert pretrain(f"{line} --telemetry 0 --out {off}") == 0
    assert_equal(state(on), state(off))
    assert not (off / "telemetry").exists()
    about = json.loads((on / "telemetry" / "about.json").read_text())
    assert (about["images"], about["policy"], about["plan"]["slots"][0]["draw"]) == (64, "hardest", 4)
    assert len(about["gallery"]) == 16
    # It may be changed in a run that resumes.
    assert pretrain(f"{line} --telemetry 8 --out {off}") == 0


@pytest.mark.parametrize("written", [False, True])
def test_a_run_cut_off_in_mid_epoch_has_the_rows_of_a_whole_one(
    written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine stops before, or after, the second epoch's rows are written, and before their checkpoint is."""
    line = f"--data shapes:64 {SIMSIAM} --epochs 3 --knn-epochs 0 --checkpoint-steps 2 --telemetry 40"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert pretrain(f"{line} --out {whole}") == 0

    class PowerCutError(Exception):
        pass

    write = Recorder.write

    def write_and_die(self: Recorder, *, ended: bool) -> None:
        last = ended and (self.folder / "epoch-0001.npz").exists()
        if written or not last:
            write(self, ended=ended)
        if last:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write", write_and_die)
        with pytest.raises(PowerCutError):
            pretrain(f"{line} --out {cut}")
    assert state(cut)["step"] == 6
    assert pretrain(f"{line} --out {cut}") == 0
    assert_equal(state(whole), state(cut))
    names = sorted(file.name for file in (whole / "telemetry").iterdir())
    assert names == ["about.json", "epoch-0000.npz", "epoch-0001.npz", "epoch-0002.npz", "gallery"]
    for name in names[1:4]:
        ours, theirs = (files.load(run / "telemetry" / name) for run in (cut, whole))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert np.array_equal(ours[key], theirs[key], equal_nan=ours[key].dtype.kind == "f"), key
        assert sorted(ours["image"]) == sorted(set(theirs["image"].tolist()))
        assert len(ours["image"]) == 40


def test_small_pictures_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = tmp_path / "run", dict[int, Any]()
    note = Recorder.note

    def watch(self: Recorder, step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        seen.update({int(i): images.image(b).permute(1, 2, 0).numpy().copy() for b, i in enumerate(images.index)})
        note(self, step, images, candidates, choice)

    monkeypatch.setattr(Recorder, "note", watch)
    line = f"--data shapes:64 {SIMSIAM} --epochs 2 --knn-epochs 1 --gallery 5 --tensorboard true --out {run}"
    assert pretrain(line) == 0
    wanted = json.loads((run / "telemetry" / "about.json").read_text())["gallery"]
    assert {file.name for file in (run / "telemetry" / "gallery").iterdir()} == {f"{image}.png" for image in wanted}
    for image in wanted:  # at 32 px they are stored as they are
        with Image.open(run / "telemetry" / "gallery" / f"{image}.png") as picture:
            assert np.array_equal(np.asarray(picture), seen[image])
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Images("views/gallery")] == [4, 8]
    scalars = events.Tags()["scalars"]
    assert {
        "train/loss",
        "train/lr",
        "views/iou_kept",
        "views/cost_kept",
        "time/score",
        "time/images_per_second",
        "time/memory",
    } <= set(scalars)
    assert {name.partition("/")[0] for name in scalars} <= {"train", "views", "time", "eval"}
    # Evaluation and training are on the same axis: the last of both is of all steps done.
    assert [events.Scalars(name)[-1].step for name in ("train/loss", "eval/embedding_rank")] == [8, 8]


def test_boxes_are_drawn_where_they_are_and_large_pictures_shrunk() -> None:
    white = Image.new("RGB", (40, 20), "white")
    shown = np.asarray(gallery.with_boxes(white, [[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.25, 0, 1, 0.5]], [1]))
    assert shown.shape == (80, 160, 3)
    red = (shown == gallery.KEPT).all(-1)
    assert red[:, 79:].sum() == red.sum() > 100  # none to the left of the kept box
    assert red[0, 85:].all()
    assert red[:, -1].all()
    assert (shown[:, 0] == gallery.OTHER).all()
    sheet = gallery.sheet([Image.fromarray(shown)] * 3)
    assert sheet.shape == (2 * 164, 2 * 164, 3)
    assert (sheet[-100:, -100:] == gallery.GROUND).all()  # nothing fourth
    stored = gallery.thumbnail(torch.randint(0, 256, (3, 300, 600), dtype=torch.uint8))
    with Image.open(BytesIO(stored)) as picture:
        assert picture.size == (128, 64)
